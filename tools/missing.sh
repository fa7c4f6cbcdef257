#!/bin/sh
# missing.sh PYTHON CXX: prints one line that says what to install before this package can be built, or nothing.
python=$1 cxx=$2

say() {
    echo "$1"
    exit 0
}

case $(uname -s) in
Darwin) get_python="install Python 3.10 or newer (python.org or brew)" get_cxx="run xcode-select --install" ;;
*) get_python="install Python 3.10 or newer (apt-get install python3 python3-venv python3-dev)" get_cxx="apt-get install g++" ;;
esac

command -v "$python" >/dev/null 2>&1 || say "$python not found: $get_python, or make PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    say "$python is $("$python" -V 2>&1), 3.10 is needed: $get_python, or make PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    say "$python has no venv module: install it (apt-get install python3-venv)"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    say "$python has no header files: install them (apt-get install python3-dev)"
command -v "$cxx" >/dev/null 2>&1 || say "no C++ compiler found: install one ($get_cxx), or make CXX=clang++"
echo '#include <span>' | "$cxx" -std=c++20 -fsyntax-only -x c++ - >/dev/null 2>&1 ||
    say "$cxx does not compile C++20: install GCC 11, Clang 14 or newer ($get_cxx), or make CXX=clang++"
