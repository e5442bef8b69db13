#!/bin/sh
# Coverage-guided fuzzing of the C API and of the reader of packed files.
#
#   fuzz/run.sh 10               # minutes for each
#   fuzz/run.sh 10 engine        # the C API alone, under ASan and UBSan, with every value in memory of its own
#   fuzz/run.sh 10 reader        # the Python code alone
#   fuzz/run.sh 0 coverage       # the lines of native/ that the corpus of the C API reaches
#   fuzz/run.sh 0 corpus         # what is worth keeping of build/fuzz/engine, packed into fuzz/engine.tar.xz
#
# It needs clang++ (for the coverage llvm-cov too) and, for the reader, atheris, which is installed beside the tests.
# It begins with fuzz/engine.tar.xz. What is found stays in build/fuzz, failures too: build/fuzz/fuzz_engine FILE
# runs one again.
set -e
cd "$(dirname "$0")/.."
minutes=${1:-10}
what=${2:-engine reader}
bin=$PWD/${VENV:-.venv}/bin
seconds=$((60 * minutes))
mkdir -p build/fuzz

# The fuzzer in the folder $1, made with the further flags of CMake.
fuzzer() {
  PATH=$bin:$PATH cmake -S . -B "$@" -G Ninja -DBBG_PYTHON=OFF -DBBG_FUZZ=ON -DBBG_GUARDED=ON -DBBG_HOST_KERNELS=ON \
    -DCMAKE_CXX_COMPILER=clang++ > "$1.log"
  PATH=$bin:$PATH cmake --build "$1" >> "$1.log" || { cat "$1.log"; exit 1; }
  "$bin/python" -m tarfile -e fuzz/engine.tar.xz build/fuzz
}

for each in $what; do
  case $each in
    engine)
      fuzzer build/fuzz -DBBG_SANITIZE=address,undefined
      build/fuzz/fuzz_engine -max_total_time="$seconds" -max_len=2000 -len_control=0 -entropic=0 \
        -artifact_prefix=build/fuzz/ -print_final_stats=1 build/fuzz/engine
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
    coverage)
      fuzzer build/coverage "-DCMAKE_CXX_FLAGS=-fprofile-instr-generate -fcoverage-mapping"
      LLVM_PROFILE_FILE=build/coverage/raw build/coverage/fuzz_engine -runs=0 -max_len=2000 build/fuzz/engine
      llvm-profdata merge build/coverage/raw -o build/coverage/data
      # The vocabularies of other CPUs are not run here, nor what measures the machine.
      llvm-cov report build/coverage/fuzz_engine -instr-profile=build/coverage/data \
        -ignore-filename-regex='fuzz/|/usr/|neon|roofline'
      ;;
    corpus)
      fuzzer build/fuzz -DBBG_SANITIZE=address,undefined
      rm -rf build/fuzz/least && mkdir -p build/fuzz/least/engine
      build/fuzz/fuzz_engine -merge=1 -max_len=2000 build/fuzz/least/engine build/fuzz/engine
      (cd build/fuzz/least && "$bin/python" -m tarfile -c ../../../fuzz/engine.tar.xz engine)
      ;;
    *) echo "$0: got '$each', allowed are engine, reader, coverage and corpus" >&2 && exit 2 ;;
  esac
done
