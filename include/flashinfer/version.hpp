// The only place where the version is written: CMake, pyproject.toml and Python read it from here.
#pragma once

#define FLASHINFER_VERSION "0.1.0"
