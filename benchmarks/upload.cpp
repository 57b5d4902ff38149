// What the host waits for when a plan is uploaded: small copies from pageable and from pinned memory, with the event behind them that
// pinned memory needs, in bursts. Decides jit::Staging::kDriverBytes. No CUDA header is needed:
//   g++ -O2 -std=c++20 -Iinclude benchmarks/upload.cpp -o upload -ldl && ./upload
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include <flashinfer/jit/cuda_driver.hpp>

using namespace flashinfer;

int main() {
  cu::Driver& driver = cu::Driver::get();
  driver.initialise();
  cu::DeviceOrdinal ordinal;
  cu::Context context;
  cu::check(driver.device_get(&ordinal, 0), "cuDeviceGet");
  cu::check(driver.device_primary_ctx_retain(&context, ordinal), "cuDevicePrimaryCtxRetain");
  cu::check(driver.ctx_push_current(context), "cuCtxPushCurrent");
  constexpr size_t kPiece = 64 << 10;
  constexpr int kPieces = 16;
  void* pinned;
  cu::check(driver.mem_host_alloc(&pinned, kPiece * kPieces, 0), "cuMemHostAlloc");
  cu::DevicePointer to;
  const cu::Entry<"cuMemAlloc_v2", cu::DevicePointer*, size_t> mem_alloc;  // the library allocates nothing on a GPU
  cu::check(mem_alloc(&to, kPiece), "cuMemAlloc");
  std::vector<char> pageable(kPiece, 1), image(kPiece, 2);
  cu::Event events[kPieces];
  for (cu::Event& event : events) cu::check(driver.event_create(&event, cu::kEventDisableTiming), "cuEventCreate");
  const auto piece = [&](int i) { return static_cast<char*>(pinned) + size_t(i % kPieces) * kPiece; };

  const auto row = [&](const char* name, size_t bytes, auto call) {
    std::vector<double> times;
    for (int burst = 0; burst < 100; ++burst) {
      cu::check(driver.stream_synchronize(nullptr), "cuStreamSynchronize");
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < kPieces; ++i) call(i);
      times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / kPieces);
    }
    std::nth_element(times.begin(), times.begin() + 50, times.end());
    std::printf("%6zu bytes  %-60s %6.2f us\n", bytes, name, times[50]);
  };
  for (size_t bytes : {size_t(256), size_t(1) << 10, size_t(3) << 10, size_t(8) << 10, size_t(16) << 10, size_t(32) << 10, kPiece}) {
    row("pageable, written", bytes, [&](int) {
      std::memcpy(pageable.data(), image.data(), bytes);
      driver.memcpy_htod_async(to, pageable.data(), bytes, nullptr);
    });
    row("pinned, not written", bytes, [&](int i) { driver.memcpy_htod_async(to, piece(i), bytes, nullptr); });
    row("pinned, written", bytes, [&](int i) {
      std::memcpy(piece(i), image.data(), bytes);
      driver.memcpy_htod_async(to, piece(i), bytes, nullptr);
    });
    row("pinned, written, an event recorded behind it", bytes, [&](int i) {
      std::memcpy(piece(i), image.data(), bytes);
      driver.memcpy_htod_async(to, piece(i), bytes, nullptr);
      driver.event_record(events[i], nullptr);
    });
    row("pinned, as jit::Staging does: the old event queried too", bytes, [&](int i) {
      const cu::RelaxedCapture relaxed;
      driver.event_query(events[i]);
      std::memcpy(piece(i), image.data(), bytes);
      driver.memcpy_htod_async(to, piece(i), bytes, nullptr);
      driver.event_record(events[i], nullptr);
    });
  }
}
