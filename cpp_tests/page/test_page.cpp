// append_paged_kv_cache, append_paged_mla_kv_cache, get_batch_indices_positions and get_seq_lens against loops over elements,
// and the shapes of their launches.
#include <gtest/gtest.h>

#include <flashinfer/page/append_paged_kv_cache.hpp>
#include <flashinfer/page/get_batch_indices_positions.hpp>
#include <flashinfer/page/get_seq_lens.hpp>
#include <random>
#include <vector>

namespace flashinfer {
namespace {

constexpr uint32_t kPoison = 0x7fc0dead;

struct AppendCase {
  int64_t page_size, num_heads, head_dim, head_dim_vo;
  bool hnd;
};

/// A cache of 4-byte elements, every one of them told apart, with gaps between heads, tokens and pages that must stay as they are.
struct Cache {
  int64_t pages, page_size, heads, dim, strides[3];
  std::vector<uint32_t> data;
  Cache(int64_t pages, const AppendCase& c, int64_t dim, int64_t gap) : pages(pages), page_size(c.page_size), heads(c.num_heads), dim(dim) {
    const int64_t inner = dim + gap;
    strides[2] = c.hnd ? inner * page_size + gap : inner;
    strides[1] = c.hnd ? inner : inner * heads + gap;
    strides[0] = (inner + gap) * page_size * heads + 2 * gap * (page_size + heads);
    data.assign(size_t(pages * strides[0] + 1), kPoison);
  }
  TensorView view() {
    TensorView v(data.data(), DType::f32, {pages, page_size, heads, dim});
    for (int i = 0; i < 3; ++i) v.strides[i] = strides[i];
    return v;
  }
  uint32_t& at(int64_t page, int64_t row, int64_t head, int64_t d) {
    return data[size_t(page * strides[0] + row * strides[1] + head * strides[2] + d)];
  }
};

void check_append(const AppendCase& c, uint32_t seed) {
  std::mt19937 generator(seed);
  const std::vector<int64_t> pages_of{2, 0, 3, 1};
  std::vector<int32_t> indptr{0}, indices{5, 2, 0, 7, 1, 6}, last_page_len(4, 1), batch_indices, positions;
  for (int64_t n : pages_of) indptr.push_back(int32_t(indptr.back() + n));
  for (int32_t r = 0; r < 4; ++r)
    for (int32_t p = 0; p < int32_t(pages_of[size_t(r)] * c.page_size); ++p)
      if (generator() % 3) batch_indices.push_back(r), positions.push_back(p);
  batch_indices.insert(batch_indices.end(), {-1, 1, 2, 4, 0});  // padding, and four slots that do not exist
  positions.insert(positions.end(), {0, 0, int32_t(3 * c.page_size), 0, -1});
  const int64_t n = int64_t(batch_indices.size());

  std::vector<uint32_t> k(size_t(n * (c.num_heads + 1) * c.head_dim + 1)), v(size_t(n * c.num_heads * (c.head_dim_vo + 3) + 1));
  for (auto* x : {&k, &v})
    for (uint32_t& bits : *x) bits = uint32_t(generator()) & 0x3fffffffu;
  TensorView key(k.data(), DType::f32, {n, c.num_heads, c.head_dim}), value(v.data(), DType::f32, {n, c.num_heads, c.head_dim_vo});
  key.strides[0] = (c.num_heads + 1) * c.head_dim;
  value.strides[0] = c.num_heads * (c.head_dim_vo + 3), value.strides[1] = c.head_dim_vo + 3;

  Cache k_cache(8, c, c.head_dim, 1), v_cache(8, c, c.head_dim_vo, 2), k_expected = k_cache, v_expected = v_cache;
  append_paged_kv_cache(key, value, {batch_indices.data(), DType::i32, {n}}, {positions.data(), DType::i32, {n}}, k_cache.view(),
                        v_cache.view(), {indices.data(), DType::i32, {6}}, {indptr.data(), DType::i32, {5}},
                        {last_page_len.data(), DType::i32, {4}});
  for (int64_t t = 0; t < n - 5; ++t) {
    const int32_t r = batch_indices[size_t(t)], p = positions[size_t(t)];
    const int64_t page = indices[size_t(indptr[size_t(r)] + p / c.page_size)], row = p % c.page_size;
    for (int64_t h = 0; h < c.num_heads; ++h) {
      for (int64_t d = 0; d < c.head_dim; ++d) k_expected.at(page, row, h, d) = k[size_t(t * key.strides[0] + h * key.strides[1] + d)];
      for (int64_t d = 0; d < c.head_dim_vo; ++d)
        v_expected.at(page, row, h, d) = v[size_t(t * value.strides[0] + h * value.strides[1] + d)];
    }
  }
  EXPECT_EQ(k_cache.data, k_expected.data);
  EXPECT_EQ(v_cache.data, v_expected.data);
}

TEST(AppendPagedKvCache, WritesItsSlotsAndNothingElse) {
  uint32_t seed = 0;
  for (int64_t page_size : {1, 3, 16})
    for (auto [heads, dim, dim_vo] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {3, 8, 8}, {2, 20, 12}, {8, 128, 128}})
      for (bool hnd : {false, true}) check_append({page_size, heads, dim, dim_vo, hnd}, ++seed);
}

struct Append {
  std::vector<uint16_t> memory = std::vector<uint16_t>(4096);
  std::vector<int32_t> index = std::vector<int32_t>(64);
  TensorView key{memory.data(), DType::bf16, {3, 2, 8}}, value{memory.data() + 64, DType::bf16, {3, 2, 8}};
  TensorView batch_indices{index.data(), DType::i32, {3}}, positions{index.data() + 8, DType::i32, {3}};
  TensorView k_cache{memory.data() + 512, DType::bf16, {4, 2, 2, 8}}, v_cache{memory.data() + 1024, DType::bf16, {4, 2, 2, 8}};
  TensorView indices{index.data() + 16, DType::i32, {2}}, indptr{index.data() + 24, DType::i32, {2}},
      last{index.data() + 32, DType::i32, {1}};
  Append() { index[8] = 0, index[9] = 1, index[10] = 2, index[16] = 3, index[17] = 0, index[24] = 0, index[25] = 2; }
  void operator()() { append_paged_kv_cache(key, value, batch_indices, positions, k_cache, v_cache, indices, indptr, last); }
};

TEST(AppendPagedKvCache, RefusesWhatItCanNotTake) {
  const auto refused = [](auto change) {
    Append call;
    EXPECT_NO_THROW(call());
    change(call);
    EXPECT_THROW(call(), InvalidArgument);
  };
  refused([](Append& c) { c.index[16] = 4; });  // page ids
  refused([](Append& c) { c.index[17] = -1; });
  refused([](Append& c) { c.key.dtype = DType::f16; });
  refused([](Append& c) { c.v_cache.dtype = DType::e4m3; });
  refused([](Append& c) { c.key.shape[1] = 1; });
  refused([](Append& c) { c.value.shape[0] = 2; });
  refused([](Append& c) { c.value.shape[2] = 4; });
  refused([](Append& c) { c.k_cache.shape[3] = 4; });
  refused([](Append& c) { c.v_cache.shape[1] = 1; });
  refused([](Append& c) { c.k_cache.strides[0] = 0; });
  refused([](Append& c) { c.k_cache.strides[3] = 2; });
  refused([](Append& c) { c.batch_indices.shape[0] = 2; });
  refused([](Append& c) { c.positions.dtype = DType::i64; });
  refused([](Append& c) { c.indptr.shape[0] = 3; });
  refused([](Append& c) { c.indices.strides[0] = 2; });
  refused([](Append& c) { c.k_cache.ndim = 3; });
  refused([](Append& c) { c.k_cache.shape[1] = c.v_cache.shape[1] = 0; });
}

TEST(AppendPagedMlaKvCache, IsTheSameWithoutHeads) {
  std::vector<uint16_t> ckv(3 * 16), kpe(3 * 8), ckv_cache(4 * 2 * 16, 0xffff), kpe_cache(4 * 2 * 8, 0xffff);
  for (size_t i = 0; i < ckv.size(); ++i) ckv[i] = uint16_t(i + 1);
  for (size_t i = 0; i < kpe.size(); ++i) kpe[i] = uint16_t(1000 + i);
  std::vector<int32_t> batch_indices{0, -1, 0}, positions{1, 0, 2}, indices{3, 1}, indptr{0, 2}, last{1};
  append_paged_mla_kv_cache({ckv.data(), DType::bf16, {3, 16}}, {kpe.data(), DType::bf16, {3, 8}}, {batch_indices.data(), DType::i32, {3}},
                            {positions.data(), DType::i32, {3}}, {ckv_cache.data(), DType::bf16, {4, 2, 16}},
                            {kpe_cache.data(), DType::bf16, {4, 2, 8}}, {indices.data(), DType::i32, {2}}, {indptr.data(), DType::i32, {2}},
                            {last.data(), DType::i32, {1}});
  std::vector<uint16_t> ckv_expected(ckv_cache.size(), 0xffff), kpe_expected(kpe_cache.size(), 0xffff);
  for (auto [token, slot] : {std::pair<size_t, size_t>{0, 3 * 2 + 1}, {2, 1 * 2 + 0}}) {
    std::copy_n(ckv.begin() + long(token * 16), 16, ckv_expected.begin() + long(slot * 16));
    std::copy_n(kpe.begin() + long(token * 8), 8, kpe_expected.begin() + long(slot * 8));
  }
  EXPECT_EQ(ckv_cache, ckv_expected);
  EXPECT_EQ(kpe_cache, kpe_expected);
}

template <class Index, class Length>
void check_positions() {
  const std::vector<Index> indptr{0, 0, 3, 3, 5, 6};
  const std::vector<Length> seq_lens{9, 3, 0, 100, 7};
  std::vector<int32_t> batch_indices(8, 77), positions(8, 77);
  constexpr DType kIndex = sizeof(Index) == 8 ? DType::i64 : DType::i32, kLength = sizeof(Length) == 8 ? DType::i64 : DType::i32;
  const auto mutable_data = [](const auto& x) { return const_cast<void*>(static_cast<const void*>(x.data())); };
  get_batch_indices_positions({mutable_data(indptr), kIndex, {6}}, {mutable_data(seq_lens), kLength, {5}},
                              {batch_indices.data(), DType::i32, {8}}, {positions.data(), DType::i32, {8}});
  EXPECT_EQ(batch_indices, (std::vector<int32_t>{1, 1, 1, 3, 3, 4, -1, -1}));
  EXPECT_EQ(positions, (std::vector<int32_t>{0, 1, 2, 98, 99, 6, 0, 0}));
}

TEST(GetBatchIndicesPositions, FindsEveryToken) {
  check_positions<int32_t, int32_t>();
  check_positions<int32_t, int64_t>();
  check_positions<int64_t, int32_t>();
  check_positions<int64_t, int64_t>();
}

TEST(GetBatchIndicesPositions, NoRequests) {
  int32_t indptr = 0, batch_indices = 5, positions = 5;
  get_batch_indices_positions({&indptr, DType::i32, {1}}, {&indptr, DType::i32, {0}}, {&batch_indices, DType::i32, {1}},
                              {&positions, DType::i32, {1}});
  EXPECT_EQ(batch_indices, -1);
  EXPECT_EQ(positions, 0);
}

TEST(GetSeqLens, CountsFullPagesAndTheLast) {
  std::vector<int32_t> indptr{0, 3, 3, 4}, last{5, 0, 16}, lens(3);
  get_seq_lens({indptr.data(), DType::i32, {4}}, {last.data(), DType::i32, {3}}, 16, {lens.data(), DType::i32, {3}});
  EXPECT_EQ(lens, (std::vector<int32_t>{37, 0, 16}));
  std::vector<int64_t> wide_indptr{0, int64_t(1) << 33}, wide_last{1}, wide_lens(1);
  get_seq_lens({wide_indptr.data(), DType::i64, {2}}, {wide_last.data(), DType::i64, {1}}, 4, {wide_lens.data(), DType::i64, {1}});
  EXPECT_EQ(wide_lens[0], (int64_t(1) << 35) - 3);
  EXPECT_THROW(get_seq_lens({indptr.data(), DType::i32, {4}}, {last.data(), DType::i32, {3}}, 0, {lens.data(), DType::i32, {3}}),
               InvalidArgument);
  EXPECT_THROW(get_seq_lens({indptr.data(), DType::i32, {3}}, {last.data(), DType::i32, {3}}, 1, {lens.data(), DType::i32, {3}}),
               InvalidArgument);
}

TEST(PageLaunches, CoverTokensAndHeads) {
  RecordingKernels kernels(device_info_of({90, 'a'}));
  const Device gpu{DeviceType::cuda, 0};
  const Context context{gpu, nullptr, &kernels, false};
  const auto at = [&](int n, DType dtype, std::initializer_list<int64_t> shape) {
    return TensorView(reinterpret_cast<void*>(uintptr_t(n) << 40), dtype, shape, gpu);
  };
  const auto append = [&](int64_t tokens, TensorView k_cache, TensorView v_cache) {
    append_paged_kv_cache(at(1, DType::bf16, {tokens, 8, 128}), at(2, DType::bf16, {tokens, 8, 128}), at(3, DType::i32, {tokens}),
                          at(4, DType::i32, {tokens}), k_cache, v_cache, at(7, DType::i32, {50}), at(8, DType::i32, {3}),
                          at(9, DType::i32, {2}), context);
    return kernels.launches.back();
  };
  TensorView k = at(5, DType::bf16, {100, 16, 8, 128}), v = at(6, DType::bf16, {100, 16, 8, 128});
  auto launch = append(9, k, v);
  EXPECT_EQ(launch.shape.grid, (Dim3{3, 1, 2}));
  EXPECT_EQ(launch.text.kernel, "AppendPagedKvCacheKernel<AppendPagedKvCacheConfig{.k_bytes=256, .v_bytes=256, .vec_bytes=16}>");
  v.strides[2] = 132;
  v.strides[1] = 8 * 132, v.strides[0] = 16 * 8 * 132;
  launch = append(9, k, v);  // narrower vectors, more of them
  EXPECT_EQ(launch.shape.grid, (Dim3{3, 2, 2}));
  EXPECT_NE(launch.text.kernel.find(".vec_bytes=8"), std::string::npos);
  const size_t count = kernels.launches.size();
  append(0, k, v);
  EXPECT_EQ(kernels.launches.size(), count);

  get_batch_indices_positions(at(1, DType::i32, {5}), at(2, DType::i64, {4}), at(3, DType::i32, {1000}), at(4, DType::i32, {1000}),
                              context);
  EXPECT_EQ(kernels.launches.back().shape.grid, (Dim3{8, 1, 1}));
  get_seq_lens(at(1, DType::i32, {130}), at(2, DType::i32, {129}), 16, at(3, DType::i32, {129}), context);
  EXPECT_EQ(kernels.launches.back().shape.grid, (Dim3{2, 1, 1}));
}

}  // namespace
}  // namespace flashinfer
