#!/bin/sh
# The self-check of the kernel sets, cross-compiled for aarch64 and run under qemu: NEON, and the scalar set on that machine.
# Does nothing where a cross compiler or qemu is not installed (Debian: g++-aarch64-linux-gnu, qemu-user).
#
#   tests/native/aarch64.sh [cases]
set -e
cd "$(dirname "$0")/../.."
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v $tool > /dev/null || { echo "$0: skipped, $tool is not installed"; exit 0; }
done
build=build/aarch64
PATH=$PWD/${VENV:-.venv}/bin:$PATH
mkdir -p $build
# -static: qemu needs no libraries of the other machine.
cmake -S . -B $build -DBBG_PYTHON=OFF -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static > $build/build.log
cmake --build $build >> $build/build.log 2>&1 || { cat $build/build.log; exit 1; }
exec qemu-aarch64 $build/selftest "${1:-40}"
