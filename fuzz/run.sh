#!/bin/sh
# Coverage-guided fuzzing of the C API and of the reader of packed files.
#
#   fuzz/run.sh 10               # minutes for each
#   fuzz/run.sh 10 engine        # the C API alone, under ASan and UBSan, with every value in memory of its own
#   fuzz/run.sh 10 reader        # the Python code alone
#
# It needs clang++ and, for the reader, atheris, which is installed beside the tests. What was found to be worth keeping
# stays in build/fuzz; a failure stays there too, and its file is given again with: build/fuzz/fuzz_engine FILE
set -e
cd "$(dirname "$0")/.."
minutes=${1:-10}
what=${2:-engine reader}
bin=$PWD/${VENV:-.venv}/bin
seconds=$((60 * minutes))
mkdir -p build/fuzz
for each in $what; do
  case $each in
    engine)
      PATH=$bin:$PATH cmake -S . -B build/fuzz -G Ninja -DBBG_PYTHON=OFF -DBBG_FUZZ=ON -DBBG_GUARDED=ON \
        -DBBG_SANITIZE=address,undefined -DCMAKE_CXX_COMPILER=clang++ > build/fuzz.log
      PATH=$bin:$PATH cmake --build build/fuzz >> build/fuzz.log || { cat build/fuzz.log; exit 1; }
      mkdir -p build/fuzz/engine
      build/fuzz/fuzz_engine -max_total_time="$seconds" -max_len=2000 -len_control=0 -artifact_prefix=build/fuzz/ \
        -print_final_stats=1 build/fuzz/engine
      ;;
    reader)
      "$bin/pip" install --quiet atheris
      # -S leaves out the editable install, whose modules atheris does not see.
      rm -rf build/fuzz/python
      cp -r src build/fuzz/python
      cp "$("$bin/python" -c 'import bbg._native as native; print(native.__file__)')" build/fuzz/python/bbg/
      packages=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
      PYTHONPATH=build/fuzz/python:tests:.:$packages "$bin/python" -S fuzz/reader.py -max_total_time="$seconds" \
        -artifact_prefix=build/fuzz/ -print_final_stats=1 build/fuzz/reader
      ;;
    *) echo "$0: got '$each', allowed are engine and reader" >&2 && exit 2 ;;
  esac
done
