#include "indexer.h"

#include <algorithm>

#include "arrays.h"
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

// Zeros at an address that the kernels accept.
class Aligned {
 public:
  explicit Aligned(size_t bytes = 0) : bytes_(bytes + SIGE_WORKSPACE_ALIGNMENT) {}
  void* get() {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    return bytes_.data() + (SIGE_WORKSPACE_ALIGNMENT - address % SIGE_WORKSPACE_ALIGNMENT) % SIGE_WORKSPACE_ALIGNMENT;
  }

 private:
  std::vector<uint8_t> bytes_;
};

struct Indexer::Memory {
  std::vector<Geometry> geometries;
  std::vector<std::string> level_names;
  std::vector<sige_index_input> inputs;
  std::vector<sige_index_level> levels;
  std::vector<sige_index_geometry> places;
  std::vector<std::vector<int32_t>> active, halo, table;
  std::vector<std::vector<float>> weights;
  std::vector<int32_t> counts, rows;
  Aligned state, plan;
  sige_indices indices{};
  sige_execution execution{};
  std::map<std::string, View> feeds;
};

static sige_axis axis_of(const AxisTaps& taps) {
  return {taps.index.data(),
          taps.weight.empty() ? nullptr : taps.weight.data(),
          taps.phase.empty() ? nullptr : taps.phase.data(),
          taps.outputs,
          taps.taps,
          taps.source,
          taps.phases};
}

Indexer::Indexer(const Manifest& manifest, std::vector<Geometry> geometries, const std::set<std::string>& wanted)
    : memory_(std::make_unique<Memory>()) {
  Memory& m = *memory_;
  const size_t spatial = manifest.spatial().size();
  if (manifest.levels.size() > SIGE_MAX_LEVELS || geometries.size() > SIGE_MAX_GEOMETRIES || spatial > SIGE_MAX_INPUTS)
    throw Error(Kind::RUNTIME,
                "the native kernels take at most 128 levels, 512 geometries and 16 spatial inputs, not " +
                    std::to_string(manifest.levels.size()) + ", " + std::to_string(geometries.size()) + " and " +
                    std::to_string(spatial) + ".");
  m.geometries = std::move(geometries);
  for (const InputSpec* input : manifest.spatial())
    m.inputs.push_back({static_cast<int32_t>(input->size('Y')), static_cast<int32_t>(input->size('X'))});
  for (const LevelSpec& level : manifest.levels) {
    const auto follows = [&](const Geometry& g) { return g.id == level.geometry; };
    const auto found = std::find_if(m.geometries.begin(), m.geometries.end(), follows);
    const int32_t geometry = level.geometry ? static_cast<int32_t>(found - m.geometries.begin()) : -1;
    m.active.emplace_back(static_cast<size_t>(bucket(count_of({level.height, level.width}))));
    m.level_names.push_back(level.id);
    m.levels.push_back({static_cast<int32_t>(level.height), static_cast<int32_t>(level.width), geometry,
                        static_cast<int32_t>(level.dilation), static_cast<int32_t>(level.granularity),
                        m.active.back().data()});
  }
  for (const Geometry& g : m.geometries) {
    const size_t source = manifest.level_index(g.source), target = manifest.level_index(g.target);
    const bool tabled = wanted.count("table." + g.id) || wanted.count("halo." + g.id);
    const bool weighed = g.weighted() && wanted.count("weights." + g.id);
    const size_t entries = static_cast<size_t>(count_of({static_cast<int64_t>(m.active[target].size()), g.taps()}));
    m.halo.emplace_back(tabled ? static_cast<size_t>(int64_t{g.y.source} * g.x.source) : 0);
    m.table.emplace_back(tabled ? entries : 0);
    m.weights.emplace_back(weighed ? entries : 0);
    m.places.push_back({static_cast<int32_t>(source), static_cast<int32_t>(target), axis_of(g.y), axis_of(g.x),
                        tabled ? m.halo.back().data() : nullptr, tabled ? m.table.back().data() : nullptr,
                        weighed ? m.weights.back().data() : nullptr});
  }
  m.counts.resize(m.levels.size());
  m.rows.resize(m.levels.size());
  m.execution.backend = SIGE_CPU;
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
  m.plan = Aligned(plan_bytes);
  m.state = Aligned(state_bytes);
  i.counts = m.counts.data();
  i.plan = i.plan_copy = m.plan.get();
  i.plan_bytes = plan_bytes;
  i.state = m.state.get();
  i.state_bytes = state_bytes;
  check(sige_indices_plan(&i));
}

Indexer::~Indexer() = default;

const std::vector<int32_t>& Indexer::begin(const std::vector<const uint8_t*>& masks) {
  check(sige_indices_begin(&memory_->indices, masks.data(), &memory_->execution));
  return memory_->counts;
}

// Entries of a halo that are in use: they ascend, and zeros follow.
static int64_t used(const std::vector<int32_t>& halo) {
  if (halo.empty()) return 0;
  return std::partition_point(halo.begin() + 1, halo.end(), [](int32_t pixel) { return pixel != 0; }) - halo.begin();
}

const std::map<std::string, View>& Indexer::finish() {
  Memory& m = *memory_;
  for (size_t i = 0; i < m.rows.size(); ++i) m.rows[i] = static_cast<int32_t>(bucket(m.counts[i]));
  check(sige_indices_finish(&m.indices, m.rows.data(), &m.execution));
  m.feeds.clear();
  const auto feed = [&](const std::string& name, DType dtype, Shape shape, const void* data) {
    m.feeds.insert_or_assign(name, View(dtype, std::move(shape), data));
  };
  for (size_t i = 0; i < m.rows.size(); ++i)
    feed("active." + m.level_names[i], DType::INT32, {m.rows[i]}, m.active[i].data());
  for (size_t i = 0; i < m.places.size(); ++i) {
    const Geometry& g = m.geometries[i];
    const Shape shape{m.rows[m.places[i].target], g.taps()};
    if (!m.table[i].empty()) {
      const int64_t length = std::min<int64_t>(bucket(used(m.halo[i])), static_cast<int64_t>(m.halo[i].size()));
      feed("halo." + g.id, DType::INT32, {length}, m.halo[i].data());
      feed("table." + g.id, DType::INT32, shape, m.table[i].data());
    }
    if (!m.weights[i].empty()) feed("weights." + g.id, DType::FLOAT32, shape, m.weights[i].data());
  }
  return m.feeds;
}

}  // namespace sige
