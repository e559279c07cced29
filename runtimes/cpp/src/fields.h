// Values of JSON files, checked as the classes of the Python package check them, with the same words.
#pragma once

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "arrays.h"
#include "manifest.h"
#include "text.h"

namespace sige {

constexpr double ANY_NUMBER = std::numeric_limits<double>::max();

// A value and where it is in its file. Methods throw Invalid.
class Value {
 public:
  Value(const nlohmann::json& data, std::string where) : data_(data), where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& what) const { throw Invalid{where_, what}; }

  Value at(const std::string& key, const nlohmann::json& data) const {
    return {data, where_.empty() ? key : where_ + "." + key};
  }

  std::string text() const {
    if (!data_.is_string()) fail("Input should be a valid string");
    return data_.get<std::string>();
  }

  // text(), which matches a pattern.
  std::string matching(const char* pattern) const {
    const std::string value = text();
    if (!std::regex_match(value, std::regex(pattern)))
      fail(std::string("String should match pattern '^") + pattern + "$'");
    return value;
  }

  std::string one_of(const std::vector<const char*>& known) const {
    std::string wanted;
    for (const char* one : known) {
      if (data_ == one) return one;
      wanted += (one == known.front() ? "" : one == known.back() ? " or " : ", ") + named(one);
    }
    fail("Input should be " + wanted);
  }

  int64_t integer(int64_t least) const {
    if (data_.is_boolean())  // as pydantic does
      return Value(nlohmann::json(int{data_.get<bool>()}), where_).integer(least);
    if (!data_.is_number_integer() || (data_.is_number_unsigned() && data_.get<uint64_t>() > INT64_MAX))
      fail(std::string("Input should be a valid integer") +
           (data_.is_string()         ? ", unable to parse string as an integer"
            : data_.is_number_float() ? ", got a number with a fractional part"
                                      : ""));
    const int64_t value = data_.get<int64_t>();
    if (value < least) fail("Input should be greater than or equal to " + std::to_string(least));
    return value;
  }

  double number(double most = ANY_NUMBER) const {
    if (data_.is_boolean()) return static_cast<double>(integer(0));
    if (!data_.is_number() || !std::isfinite(data_.get<double>()))
      fail(std::string("Input should be a valid number") +
           (data_.is_string() ? ", unable to parse string as a number" : ""));
    const double value = data_.get<double>();
    if (value < 0) fail("Input should be greater than or equal to 0");
    if (value > most) fail("Input should be less than or equal to 1");
    return value;
  }

  void boolean() const {
    if (!data_.is_boolean())
      fail(std::string("Input should be a valid boolean") +
           (data_.is_string() || data_.is_number_integer() ? ", unable to interpret input" : ""));
  }

  DType dtype() const {
    return *dtype_named(one_of({"float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8",
                                "uint16", "uint32", "uint64"}));
  }

  template <typename Read>
  auto list(Read read) const {
    if (!data_.is_array()) fail("Input should be a valid list");
    std::vector<decltype(read(*this))> result;
    for (size_t i = 0; i < data_.size(); ++i) result.push_back(read(at(std::to_string(i), data_[i])));
    return result;
  }

  Shape integers(int64_t least) const {
    return list([least](const Value& value) { return value.integer(least); });
  }

  // Calls read(name, value) for each entry of an object.
  template <typename Read>
  void entries(Read read) const {
    if (!data_.is_object()) fail("Input should be a valid dictionary");
    for (const auto& [name, entry] : data_.items()) read(name, at(name, entry));
  }

  const nlohmann::json& data() const { return data_; }

 private:
  const nlohmann::json& data_;
  std::string where_;
};

// An object of a class of sige_deploy/manifest.py. Once its fields are read, `done` refuses any other.
class Object {
 public:
  Object(const Value& value, const char* name) : value_(value) {
    if (!value.data().is_object()) value.fail(std::string("Input should be a valid dictionary or instance of ") + name);
  }

  void done() const {
    for (const auto& [key, field] : value_.data().items())
      if (!known_.count(key)) value_.at(key, field).fail("Extra inputs are not permitted");
  }

  std::optional<Value> find(const char* key) const {
    known_.insert(key);
    const auto found = value_.data().find(key);
    return found == value_.data().end() ? std::nullopt : std::optional(value_.at(key, *found));
  }

  Value operator[](const char* key) const {
    const auto value = find(key);
    if (!value) value_.at(key, value_.data()).fail("Field required");
    return *value;
  }

  // A field that may be null.
  std::optional<Value> get(const char* key) const {
    const auto value = find(key);
    return value && value->data().is_null() ? std::nullopt : value;
  }

  std::optional<std::string> text(const char* key) const {
    const auto value = get(key);
    return value ? std::optional(value->text()) : std::nullopt;
  }

  int64_t integer(const char* key, int64_t least, int64_t otherwise) const {
    const auto value = find(key);
    return value ? value->integer(least) : otherwise;
  }

  double number(const char* key, double otherwise, double most = ANY_NUMBER) const {
    const auto value = find(key);
    return value ? value->number(most) : otherwise;
  }

 private:
  Value value_;
  mutable std::set<std::string> known_;
};

inline FileSpec file_of(const Value& value) {
  const Object fields(value, "FileSpec");
  FileSpec spec{fields["sha256"].matching("[0-9a-f]{64}"), fields["bytes"].integer(0)};
  fields.done();
  return spec;
}

}  // namespace sige
