// The plan of sige_indices: where its arrays are, and which block does what.
#include <numeric>
#include <vector>

#include "edit.h"
#include "indices.h"

namespace sige {
namespace {

using namespace indices;

// Hands out aligned pieces of memory one after the other; without memory it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : base_(static_cast<char*>(memory)) {}
  template <typename T>
  T* take(size_t count) {
    T* const piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    const size_t bytes = most(count, size_t{1}) * sizeof(T);
    used_ += (bytes + SIGE_WORKSPACE_ALIGNMENT - 1) / SIGE_WORKSPACE_ALIGNMENT * SIGE_WORKSPACE_ALIGNMENT;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

int32_t parts(int32_t count, int32_t size) { return (count + size - 1) / size; }

class Planner {
 public:
  Planner(const sige_indices& indices, void* state) : a_(indices), state_(state) {}

  bool make() {
    levels_.resize(a_.levels);
    geometries_.resize(a_.geometries);
    samples_.resize(size_t(a_.inputs) * a_.levels);
    make_cleared();
    for (int32_t i = 0; i < a_.levels; ++i) make_level(i);
    for (int32_t i = 0; i < a_.geometries; ++i) make_geometry(i);
    return make_blocks();
  }

  size_t state_bytes() const { return state_.used(); }

  // Writes the plan; without memory, says how large it is.
  size_t write(void* memory) const {
    Arena arena(memory);
    Plan* const plan = arena.take<Plan>(1);
    Plan p{};
    p.base = static_cast<const char*>(memory);
    p.inputs = a_.inputs, p.levels = a_.levels, p.geometries = a_.geometries, p.dilate = a_.dilate;
    p.threshold = a_.threshold, p.counts = a_.counts;
    p.cleared_bytes = cleared_, p.turns = turns_, p.reads = reads_, p.read_bytes = read_bytes_;
    p.input_offset = put(arena, a_.input, a_.inputs);
    p.level_offset = put(arena, levels_.data(), levels_.size());
    p.geometry_offset = put(arena, geometries_.data(), geometries_.size());
    p.sample_offset = put(arena, samples_.data(), samples_.size());
    p.step_offset = put(arena, steps_.data(), steps_.size());
    p.block_offset = put(arena, blocks_.data(), blocks_.size());
    p.cover = cover_, p.decide = decide_, p.rank = rank_, p.halo = halo_;
    p.steps = static_cast<int32_t>(steps_.size());
    if (plan) *plan = p;
    return arena.used();
  }

 private:
  template <typename T>
  static size_t put(Arena& arena, const T* from, size_t count) {
    const size_t offset = arena.used();
    T* const to = arena.take<T>(count);
    if (to) std::copy(from, from + count, to);
    return offset;
  }

  // Whether a target pixel covers more than a part of one source pixel.
  static bool summed(const Sample& s) { return s.target_y > 1 || s.target_x > 1; }

  void make_cleared() {
    uint32_t* const largest = state_.take<uint32_t>(samples_.size());
    for (int32_t i = 0; i < a_.inputs; ++i) {
      for (int32_t l = 0; l < a_.levels; ++l) {
        const sige_index_level& level = a_.level[l];
        const sige_index_input& input = a_.input[i];
        Sample& s = samples_[size_t(i) * a_.levels + l];
        if (level.geometry >= 0) continue;
        const int32_t y = std::gcd(level.height, input.height), x = std::gcd(level.width, input.width);
        s.source_y = level.height / y, s.source_x = level.width / x;
        s.target_y = input.height / y, s.target_x = input.width / x;
        s.width = level.width;
        if (!summed(s)) continue;
        s.covered = state_.take<uint32_t>(size_t(level.height) * level.width);
        s.largest = largest ? largest + (&s - samples_.data()) : nullptr;
        s.grown = level.height >= input.height && level.width >= input.width;
      }
    }
    cleared_ = state_.used();
    state_.take<char>(cleared_);
    turns_ = state_.take<uint32_t>(2);
    const size_t before = state_.used();
    reads_ = state_.take<uint32_t>(0);
    for (int32_t i = 0; i < a_.geometries; ++i) {
      const sige_index_geometry& g = a_.geometry[i];
      if (g.halo) geometries_[i].read = state_.take<uint32_t>(parts(g.y.source * g.x.source, 32));
    }
    read_bytes_ = state_.used() - before;
  }

  void make_level(int32_t i) {
    const sige_index_level& from = a_.level[i];
    Level& l = levels_[i];
    l.height = from.height, l.width = from.width, l.pixels = from.height * from.width, l.words = parts(l.pixels, 32);
    l.geometry = from.geometry, l.dilation = from.dilation, l.granularity = from.granularity;
    l.bits = state_.take<uint32_t>(l.words);
    l.raw = l.granularity > 1 ? state_.take<uint32_t>(l.words) : l.bits;
    l.rank = state_.take<int32_t>(l.words);
    l.listed = state_.take<int32_t>(l.pixels);
    l.active = from.active;
  }

  void make_geometry(int32_t i) {
    const sige_index_geometry& from = a_.geometry[i];
    Geometry& g = geometries_[i];
    g.source = from.source, g.target = from.target;
    g.y = from.y, g.x = from.x;
    g.taps = from.y.taps * from.x.taps, g.phases = from.y.phases * from.x.phases;
    g.rank = state_.take<int32_t>(levels_[g.source].words);
    g.length = state_.take<int32_t>(1);
    g.halo = from.halo, g.table = from.table, g.weights = from.weights;
  }

  void add(int32_t job, int32_t count) {
    for (int32_t part = 0; part < count; ++part) blocks_.push_back({job, part});
  }
  Span since(size_t first) const { return {int32_t(first), int32_t(blocks_.size() - first)}; }

  bool make_blocks() {
    for (int32_t i = 0; i < a_.inputs; ++i) {
      bool sampled = false;
      for (int32_t l = 0; l < a_.levels; ++l) sampled |= summed(samples_[size_t(i) * a_.levels + l]);
      if (sampled) add(i, parts(a_.input[i].height, TILE_ROWS) * parts(a_.input[i].width, TILE_COLUMNS));
    }
    cover_ = since(0);
    size_t first = blocks_.size();
    for (int32_t l = 0; l < a_.levels; ++l) {
      if (levels_[l].geometry < 0) add(l, parts(levels_[l].pixels, PIXELS));
    }
    decide_ = since(first);
    if (!make_steps()) return false;
    first = blocks_.size();
    for (int32_t l = 0; l < a_.levels; ++l) add(l, parts(levels_[l].words, WORDS));
    for (int32_t g = 0; g < a_.geometries; ++g) {
      if (a_.geometry[g].halo) add(a_.levels + g, parts(levels_[geometries_[g].target].pixels, PIXELS));
    }
    rank_ = since(first);
    first = blocks_.size();
    for (int32_t g = 0; g < a_.geometries; ++g) {
      if (a_.geometry[g].halo) add(g, parts(levels_[geometries_[g].source].words, WORDS));
    }
    halo_ = since(first);
    return true;
  }

  // Steps in the order in which levels can be had: a level that follows comes after its source is done.
  bool make_steps() {
    std::vector<int32_t> done(a_.levels, -1);  // steps until a level's mask is final
    std::vector<std::vector<int32_t>> jobs;
    const auto at = [&](int32_t step, int32_t job) {
      if (jobs.size() <= size_t(step)) jobs.resize(step + 1);
      jobs[step].push_back(job);
      return step + 1;
    };
    for (int32_t left = a_.levels; left > 0;) {
      const int32_t before = left;
      for (int32_t l = 0; l < a_.levels; ++l) {
        const int32_t g = levels_[l].geometry;
        if (done[l] >= 0 || (g >= 0 && done[geometries_[g].source] < 0)) continue;
        done[l] = g >= 0 ? at(done[geometries_[g].source], 2 * l) : 0;
        if (levels_[l].granularity > 1) done[l] = at(done[l], 2 * l + 1);
        --left;
      }
      if (left == before) return false;
    }
    for (const std::vector<int32_t>& step : jobs) {
      const size_t first = blocks_.size();
      for (int32_t job : step) add(job, parts(levels_[job / 2].pixels, PIXELS));
      steps_.push_back(since(first));
    }
    return true;
  }

  const sige_indices& a_;
  Arena state_;
  size_t cleared_ = 0, read_bytes_ = 0;
  uint32_t *turns_ = nullptr, *reads_ = nullptr;
  std::vector<Level> levels_;
  std::vector<Geometry> geometries_;
  std::vector<Sample> samples_;
  std::vector<Span> steps_;
  std::vector<Block> blocks_;
  Span cover_{}, decide_{}, rank_{}, halo_{};
};

}  // namespace

bool plan_indices(const sige_indices& indices, size_t* plan_bytes, size_t* state_bytes, bool write) {
  Planner planner(indices, write ? indices.state : nullptr);
  if (!planner.make()) return false;
  *state_bytes = planner.state_bytes();
  *plan_bytes = planner.write(nullptr);
  if (write && *plan_bytes <= indices.plan_bytes && *state_bytes <= indices.state_bytes) planner.write(indices.plan);
  return true;
}

}  // namespace sige
