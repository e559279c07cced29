#include "safetensors.h"

#include <algorithm>
#include <fstream>
#include <system_error>

#include "text.h"

namespace sige {

Tensors::Tensors(const std::filesystem::path& file) {
  std::error_code failed;
  const auto bytes = std::filesystem::file_size(file, failed);
  data_.resize(failed ? 0 : bytes);
  std::ifstream stream(file, std::ios::binary);
  stream.read(data_.data(), static_cast<std::streamsize>(data_.size()));
  data_.resize(static_cast<size_t>(stream.gcount()));
  uint64_t length = 0;
  if (data_.size() < sizeof length) throw Damaged{"it is shorter than its header"};
  std::memcpy(&length, data_.data(), sizeof length);
  if (length > data_.size() - sizeof length) throw Damaged{"it is shorter than its header"};
  start_ = sizeof length + length;
  header_ = nlohmann::json::parse(data_.data() + sizeof length, data_.data() + start_);
  if (!header_.is_object()) throw Damaged{"its header is no JSON object"};
}

std::vector<std::string> Tensors::names() const {
  std::vector<std::string> result;
  for (const auto& [name, entry] : header_.items())
    if (name != "__metadata__") result.push_back(name);
  return result;
}

View Tensors::view(const std::string& name) const {
  if (!has(name)) throw Damaged{named(name)};
  const nlohmann::json& entry = header_.at(name);
  const std::optional<DType> dtype = dtype_saved(entry.at("dtype").get<std::string>());
  if (!dtype) throw Damaged{name + " has type " + entry.at("dtype").dump()};
  const auto shape = entry.at("shape").get<Shape>();
  const auto begin = entry.at("data_offsets").at(0).get<uint64_t>(),
             end = entry.at("data_offsets").at(1).get<uint64_t>();
  const bool sized = std::all_of(shape.begin(), shape.end(), [](int64_t n) { return n >= 0; });
  if (!sized || end > data_.size() - start_ || begin > end ||
      end - begin != static_cast<uint64_t>(count_of(shape)) * size_of(*dtype))
    throw Damaged{name + " does not lie inside the file"};
  return {*dtype, shape, data_.data() + start_ + begin};
}

}  // namespace sige
