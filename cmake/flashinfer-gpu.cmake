# flashinfer::gpu, for the source tree (FLASHINFER_GPU=ON) and for find_package(flashinfer COMPONENTS gpu) alike.
# The caller enables the language CUDA and chooses CMAKE_CUDA_ARCHITECTURES, 90a and 100a rather than 90 and 100.
add_library(flashinfer_gpu INTERFACE)
add_library(flashinfer::gpu ALIAS flashinfer_gpu)
target_compile_features(flashinfer_gpu INTERFACE cuda_std_20)
target_link_libraries(flashinfer_gpu INTERFACE flashinfer::cpu CUDA::toolkit)  # the CUDA runtime: as CMAKE_CUDA_RUNTIME_LIBRARY says
