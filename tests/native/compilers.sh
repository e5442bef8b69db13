#!/bin/sh
# The self-check built by every compiler that is here, g++ and clang++, where a warning is an error, and run.
#
#   tests/native/compilers.sh [cases]
set -e
cd "$(dirname "$0")/../.."
PATH=$PWD/${VENV:-.venv}/bin:$PATH
for compiler in g++ clang++; do
  command -v $compiler > /dev/null || { echo "$0: $compiler skipped, it is not installed"; continue; }
  build=build/selftest-$compiler
  mkdir -p "$build"
  cmake -S . -B "$build" -DBBG_PYTHON=OFF -DBBG_WERROR=ON -DCMAKE_CXX_COMPILER=$compiler > "$build/build.log"
  cmake --build "$build" >> "$build/build.log" 2>&1 || { cat "$build/build.log"; exit 1; }
  echo "$compiler: $("$build/selftest" "${1:-120}")"
done
