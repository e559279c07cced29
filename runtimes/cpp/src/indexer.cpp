#include "indexer.h"

#include <algorithm>

#include "sige/indices.h"

namespace sige {

int64_t bucket(int64_t n) {
  if (n == 0) return 0;
  int64_t power = 1;
  while (power * 2 <= n) power *= 2;
  const int64_t step = std::max<int64_t>(8, power / 16);
  return (n + step - 1) / step * step;
}

// Area-weighted sums of `values` [n, inner] along the first axis, [outputs, inner], in units of 1 / outputs rows.
static std::vector<int64_t> overlaps(const std::vector<int64_t>& values, int64_t n, int64_t inner, int64_t outputs) {
  std::vector<int64_t> sums(static_cast<size_t>(outputs * inner));
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t s = o * n / outputs; s * outputs < (o + 1) * n; ++s) {
      const int64_t covered = std::min((s + 1) * outputs, (o + 1) * n) - std::max(s * outputs, o * n);
      for (int64_t i = 0; i < inner; ++i) sums[o * inner + i] += covered * values[s * inner + i];
    }
  return sums;
}

static std::vector<int64_t> transposed(const std::vector<int64_t>& values, int64_t rows, int64_t columns) {
  std::vector<int64_t> result(values.size());
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) result[x * rows + y] = values[y * columns + x];
  return result;
}

std::vector<uint8_t> resampled(const Mask& mask, int64_t height, int64_t width, double threshold) {
  constexpr double MARGIN = 0.001;
  std::vector<int64_t> values(static_cast<size_t>(mask.height * mask.width));
  for (size_t i = 0; i < values.size(); ++i) values[i] = mask.data[i] != 0;
  const auto rows = overlaps(values, mask.height, mask.width, height);
  const auto sums = overlaps(transposed(rows, height, mask.width), mask.width, height, width);
  const double area = static_cast<double>(mask.height * mask.width);
  const double largest = static_cast<double>(*std::max_element(sums.begin(), sums.end())) / area;
  const double limit = std::max(0.0, std::min(threshold, largest - MARGIN));
  std::vector<uint8_t> result(static_cast<size_t>(height * width));
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      result[y * width + x] = static_cast<double>(sums[x * height + y]) / area > limit;
  return result;
}

struct Indexer::Parts {
  explicit Parts(Memory& where) : memory(where) {}

  Memory& memory;
  HostMemory host;  // of the plan
  std::vector<std::string> level_names, geometry_names;
  std::vector<int64_t> taps;  // of each geometry
  std::vector<sige_index_input> inputs;
  std::vector<sige_index_level> levels;
  std::vector<sige_index_geometry> places;
  std::vector<Buffer> active, halo, table, weights, kept;
  Buffer block;  // counts and status
  std::shared_ptr<void> landing;
  std::vector<int32_t> landed;
  sige_indices indices{};
  sige_execution execution{};

  template <typename T>
  const T* uploaded(DType dtype, const std::vector<T>& values) {
    if (values.empty()) return nullptr;
    kept.push_back(memory.uploaded(dtype, {static_cast<int64_t>(values.size())}, values.data()));
    return kept.back().as<T>();
  }

  sige_axis axis(const AxisTaps& taps) {
    return {uploaded(DType::INT32, taps.index),
            uploaded(DType::FLOAT32, taps.weight),
            uploaded(DType::INT32, taps.phase),
            taps.outputs,
            taps.taps,
            taps.source,
            taps.phases};
  }
};

Indexer::Indexer(Memory& memory, const Manifest& manifest, const std::vector<Geometry>& geometries,
                 const std::set<std::string>& wanted, size_t words)
    : parts_(std::make_unique<Parts>(memory)) {
  Parts& m = *parts_;
  const size_t spatial = manifest.spatial().size();
  if (manifest.levels.size() > SIGE_MAX_LEVELS || geometries.size() > SIGE_MAX_GEOMETRIES || spatial > SIGE_MAX_INPUTS)
    throw Error(Kind::RUNTIME,
                "the native kernels take at most 128 levels, 512 geometries and 16 spatial inputs, not " +
                    std::to_string(manifest.levels.size()) + ", " + std::to_string(geometries.size()) + " and " +
                    std::to_string(spatial) + ".");
  for (const InputSpec* input : manifest.spatial())
    m.inputs.push_back({static_cast<int32_t>(input->size('Y')), static_cast<int32_t>(input->size('X'))});
  for (const LevelSpec& level : manifest.levels) {
    const auto follows = [&](const Geometry& g) { return g.id == level.geometry; };
    const auto found = std::find_if(geometries.begin(), geometries.end(), follows);
    const int32_t geometry = level.geometry ? static_cast<int32_t>(found - geometries.begin()) : -1;
    m.active.push_back(memory.empty(DType::INT32, {bucket(count_of({level.height, level.width}))}));
    m.level_names.push_back(level.id);
    m.levels.push_back({static_cast<int32_t>(level.height), static_cast<int32_t>(level.width), geometry,
                        static_cast<int32_t>(level.dilation), static_cast<int32_t>(level.granularity),
                        m.active.back().as<int32_t>()});
  }
  for (const Geometry& g : geometries) {
    const size_t source = manifest.level_index(g.source), target = manifest.level_index(g.target);
    const bool tabled = wanted.count("table." + g.id) || wanted.count("halo." + g.id);
    const bool weighed = g.weighted() && wanted.count("weights." + g.id);
    const Shape entries{m.active[target].shape[0], g.taps()};
    m.geometry_names.push_back(g.id);
    m.taps.push_back(g.taps());
    m.halo.push_back(tabled ? memory.empty(DType::INT32, {int64_t{g.y.source} * g.x.source}) : Buffer());
    m.table.push_back(tabled ? memory.empty(DType::INT32, entries) : Buffer());
    m.weights.push_back(weighed ? memory.empty(DType::FLOAT32, entries) : Buffer());
    if (tabled) memory.fill(m.halo.back().pointer, 0, m.halo.back().bytes());
    m.places.push_back({static_cast<int32_t>(source), static_cast<int32_t>(target), m.axis(g.y), m.axis(g.x),
                        m.halo.back().as<int32_t>(), m.table.back().as<int32_t>(), m.weights.back().as<float>()});
  }
  m.landed.resize(m.levels.size() + words);
  m.block = memory.uploaded(DType::INT32, {static_cast<int64_t>(m.landed.size())}, m.landed.data());
  m.landing = memory.landing(m.block.bytes());
  m.execution = memory.execution();
  sige_indices& i = m.indices;
  i.input = m.inputs.data();
  i.level = m.levels.data();
  i.geometry = m.places.data();
  i.inputs = static_cast<int32_t>(m.inputs.size());
  i.levels = static_cast<int32_t>(m.levels.size());
  i.geometries = static_cast<int32_t>(m.places.size());
  i.dilate = static_cast<int32_t>(std::min<int64_t>(manifest.dilate, SIGE_MAX_SIDE));
  i.threshold = manifest.threshold;
  size_t plan_bytes = 0, state_bytes = 0;
  check(sige_indices_sizes(&i, &plan_bytes, &state_bytes));
  const auto block_of = [&](Memory& where, size_t bytes) {
    m.kept.push_back(where.empty(DType::UINT8, {static_cast<int64_t>(bytes)}));
    where.fill(m.kept.back().pointer, 0, bytes);
    return m.kept.back().pointer;
  };
  i.counts = m.block.as<int32_t>();
  i.state = block_of(memory, state_bytes);
  i.state_bytes = state_bytes;
  i.plan = block_of(m.host, plan_bytes);
  i.plan_bytes = plan_bytes;
  i.plan_copy = i.plan;
  check(sige_indices_plan(&i));
  i.plan_copy = block_of(memory, plan_bytes);
  memory.upload(i.plan, i.plan_copy, plan_bytes);
}

Indexer::~Indexer() = default;

int32_t* Indexer::status() const { return parts_->block.as<int32_t>() + parts_->levels.size(); }

void Indexer::begin(const std::vector<const uint8_t*>& masks) {
  check(sige_indices_begin(&parts_->indices, masks.data(), &parts_->execution));
  parts_->memory.fetch(parts_->block.pointer, parts_->landing.get(), parts_->block.bytes());
}

const std::vector<int32_t>& Indexer::counts_and_status() {
  Parts& m = *parts_;
  m.memory.synchronize();
  const auto* words = static_cast<const int32_t*>(m.landing.get());
  m.landed.assign(words, words + m.landed.size());
  return m.landed;
}

Buffers Indexer::finish(const std::vector<int32_t>& rows) {
  Parts& m = *parts_;
  check(sige_indices_list(&m.indices, &m.execution));
  check(sige_indices_finish(&m.indices, rows.data(), &m.execution));
  Buffers feeds;
  for (size_t i = 0; i < rows.size(); ++i)
    feeds["active." + m.level_names[i]] = m.active[i].view(DType::INT32, {rows[i]});
  for (size_t i = 0; i < m.places.size(); ++i) {
    const Shape shape{rows[m.places[i].target], m.taps[i]};
    if (m.table[i].pointer) {
      feeds["halo." + m.geometry_names[i]] = m.halo[i];
      feeds["table." + m.geometry_names[i]] = m.table[i].view(DType::INT32, shape);
    }
    if (m.weights[i].pointer) feeds["weights." + m.geometry_names[i]] = m.weights[i].view(DType::FLOAT32, shape);
  }
  return feeds;
}

}  // namespace sige
