#!/bin/sh
# Python with the native module built under GCC's sanitizers:
#
#   tests/native/sanitized.sh asan -m pytest --capture=sys tests/test_engine.py
#   tests/native/sanitized.sh tsan -m pytest tests/test_engine.py -k thread
#   tests/native/sanitized.sh asan -m support.fuzz_file 1000
#   tests/native/sanitized.sh guarded -m support.guarded 1000    # asan, and every value in memory of its own
#
# With --capture=sys a report of the sanitizer is seen.
set -e
cd "$(dirname "$0")/../.."
case $1 in
  asan) flags=address,undefined libraries="libasan.so libubsan.so" guarded=OFF ;;
  guarded) flags=address,undefined libraries="libasan.so libubsan.so" guarded=ON ;;
  tsan) flags=thread libraries="libtsan.so" guarded=OFF ;;
  *) echo "$0: got '$1', allowed are asan, guarded and tsan" >&2 && exit 2 ;;
esac
mkdir -p build/sanitize
build=build/sanitize/$1
bin=$PWD/${VENV:-.venv}/bin
shift

PATH=$bin:$PATH cmake -S . -B "$build" -G Ninja -DBBG_PYTHON=ON -DBBG_SANITIZE=$flags -DBBG_GUARDED=$guarded \
  -DBBG_HOST_KERNELS=ON \
  -DPython_EXECUTABLE="$bin/python" -Dnanobind_DIR="$("$bin/python" -m nanobind --cmake_dir)" > "$build.log"
PATH=$bin:$PATH cmake --build "$build" >> "$build.log" || { cat "$build.log"; exit 1; }
rm -rf "$build/python"
cp -r src "$build/python"
rm -f "$build"/python/bbg/_native*.so
cp "$build"/_native*.so "$build/python/bbg/"

preload=
for library in $libraries; do preload="$preload $(g++ -print-file-name=$library)"; done
packages=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# -S leaves out the editable install, which would be found before the instrumented copy. Python itself leaks at exit.
# The paths are relative to the root: whatever starts Python again from there finds the copy too.
export PYTHONPATH="$build/python:tests:.:$packages" ASAN_OPTIONS=detect_leaks=0,allocator_may_return_null=1
LD_PRELOAD=$preload exec "$bin/python" -S "$@"
