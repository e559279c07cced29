#include "device_edit.h"

#include "device_native.h"

namespace sige {

Buffers Room::place(const std::vector<ArraySpec>& arrays) {
  const size_t total = laid_bytes(arrays), former = block_.pointer ? block_.bytes() : 0;
  const auto block = [&](size_t bytes) { return memory_.empty(DType::UINT8, {static_cast<int64_t>(bytes)}); };
  if (former < total) {
    try {
      block_ = block(std::max(total, 2 * former));
    } catch (const Error&) {
      if (2 * former <= total) throw;
      block_ = block(total);
    }
  } else if (!block_.pointer) {
    block_ = block(0);
  }
  return laid_out(block_, arrays);
}

PreparedEdit::PreparedEdit(NativeDevice& device, std::vector<int32_t> rows) : rows_(std::move(rows)) {
  for (const int32_t count : rows_) key_ += std::to_string(count) + " ";
  const Manifest& manifest = device.manifest_;
  std::vector<ArraySpec> arrays;
  const auto add = [&](const std::string& name, const std::string& level, const Offsets& offsets) {
    arrays.push_back({name, offsets.dtype, offsets.rows(rows_[manifest.level_index(level)])});
  };
  for (size_t i = 0; i < device.spatial_.size(); ++i)
    add("rows." + device.spatial_[i]->name, *device.spatial_[i]->level, device.input_offsets_[i]);
  for (size_t i = 0; i < device.outputs_.size(); ++i)
    add(device.outputs_[i]->rows(), *device.outputs_[i]->level, device.output_offsets_[i]);
  for (size_t i = 0; i < device.caches_.size(); ++i)
    add(*device.caches_[i]->rows, *device.caches_[i]->level, device.commit_offsets_[device.spatial_.size() + i]);
  fresh_ = device.room_.place(arrays);
}

// A move between a dense array and rows at the active pixels of a level.
static Move move(const Buffer& dense, const Buffer& rows, const Buffers& feeds, const std::string& level) {
  const Buffer& active = feeds.at("active." + level);
  return {dense.pointer, rows.pointer, active.as<int32_t>(), active.shape[0]};
}

void PreparedEdit::run(NativeDevice& device) {
  Memory& memory = *device.memory_;
  const Buffers& base = device.storage();
  feeds_ = device.indexer_->finish(rows_);
  std::vector<Move> taken, put;
  for (const InputSpec* input : device.spatial_)
    taken.push_back(move(device.given_.at(input->name), fresh_.at("rows." + input->name), feeds_, *input->level));
  device.take_.take(taken);
  for (const auto& [name, buffer] : device.free_)
    memory.copy(device.given_.at(name).pointer, buffer.pointer, buffer.bytes());
  for (const OutputSpec* output : device.outputs_) {
    const Buffer& result = device.results_.at(output->name);
    memory.copy(base.at("output." + output->name).pointer, result.pointer, result.bytes());
    put.push_back(move(result, fresh_.at(output->rows()), feeds_, *output->level));
  }
  if (!queue_) bind(device);
  queue_();
  device.put_.put(put);
}

void PreparedEdit::commit(NativeDevice& device) {
  Memory& memory = *device.memory_;
  const Buffers& base = device.storage();
  std::vector<Move> moves;
  for (const InputSpec* input : device.spatial_)
    moves.push_back(move(base.at("input." + input->name), fresh_.at("rows." + input->name), feeds_, *input->level));
  for (const CacheSpec* cache : device.caches_)
    moves.push_back(move(base.at("cache." + cache->name), fresh_.at(*cache->rows), feeds_, *cache->level));
  device.commits_.put(moves);
  for (const auto& [name, buffer] : device.free_)
    memory.copy(buffer.pointer, base.at("input." + name).pointer, buffer.bytes());
  for (const auto& [name, buffer] : device.results_)
    memory.copy(buffer.pointer, base.at("output." + name).pointer, buffer.bytes());
}

void PreparedEdit::bind(NativeDevice& device) {
  Buffers inputs = feeds_, made;
  for (const auto& [name, buffer] : device.free_) inputs[name] = buffer;
  for (const InputSpec* input : device.spatial_) inputs["rows." + input->name] = fresh_.at("rows." + input->name);
  for (const CacheSpec& cache : device.manifest_.caches)
    inputs[cache.name] = device.storage().at("cache." + cache.name);
  for (const std::string& name : device.manifest_.edit_outputs()) {
    const auto rows = fresh_.find(name);
    made[name] = rows == fresh_.end() ? device.results_.at(name) : rows->second;
  }
  queue_ = device.engine_->bind_edit(inputs, made);
}

}  // namespace sige
