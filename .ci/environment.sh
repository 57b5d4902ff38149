# Sourced by run-tests and run-demo, in the root of the repository: what a bare Debian or Ubuntu with Python 3.10 lacks,
# and .venv, a Python with the package in it. Everything here may run again: it brings up to date what is there.
export PIP_DISABLE_PIP_VERSION_CHECK=1
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}

system_packages() {  # Prints the apt packages that are missing.
  command -v g++ >/dev/null || echo g++
  python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
  python3 -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || echo python3-dev
  [ "${1:-}" != tests ] || [ -e /usr/include/gtest/gtest.h ] || [ -e /usr/src/googletest ] || echo libgtest-dev
}

create_environment() {  # [tests]
  local packages sudo=
  packages=$(system_packages "${1:-}")
  if [ -n "$packages" ]; then
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $packages || return
  fi
  [ -x .venv/bin/python ] || python3 -m venv .venv || return
  source .venv/bin/activate
}

install_package() {  # extra,... The build lives on in .venv/wheel, so that the next one compiles only what changed.
  pip install -qq "scikit-build-core>=0.10" "nanobind>=2.9" cmake ninja &&
    pip install -q --no-build-isolation -C build-dir=.venv/wheel ".[$1]"
}
