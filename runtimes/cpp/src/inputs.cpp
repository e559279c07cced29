#include "inputs.h"

#include <algorithm>

#include "arrays.h"
#include "text.h"

namespace sige {

void check_inputs(const std::vector<InputSpec>& specs, const Inputs& given) {
  std::vector<std::string> names;
  for (const InputSpec& spec : specs) names.push_back(spec.name);
  for (const auto& [name, view] : given)
    if (std::find(names.begin(), names.end(), name) == names.end())
      throw Error(Kind::INPUT, "the network has no input " + named(name) + "; its inputs are " + listed(names) + ".");
  for (const InputSpec& spec : specs) {
    const auto found = given.find(spec.name);
    if (found == given.end())
      throw Error(Kind::INPUT,
                  "input " + named(spec.name) + " is missing; the network's inputs are " + listed(names) + ".");
    const View& view = found->second;
    const std::string expected = std::string(name_of(spec.dtype)) + " of shape " + listed(spec.shape);
    if (view.dtype != spec.dtype)
      throw Error(Kind::INPUT, "input " + named(spec.name) + " has dtype " + name_of(view.dtype) + "; expected " +
                                   expected + ", so convert it first.");
    if (view.shape != spec.shape)
      throw Error(Kind::INPUT,
                  "input " + named(spec.name) + " has shape " + listed(view.shape) + "; expected " + expected + ".");
    if (!view.data && count_of(view.shape))
      throw Error(Kind::INPUT, "input " + named(spec.name) + " has no data; expected " + expected + ".");
  }
}

void check_mask(const Mask& mask, const InputSpec& spatial) {
  const Shape wanted{spatial.size('Y'), spatial.size('X')}, given{mask.height, mask.width};
  const std::string expected = "a bool array of shape " + listed(wanted);
  if (given != wanted)
    throw Error(Kind::INPUT,
                "mask has shape " + listed(given) + "; expected " + expected + ", the size of the spatial input.");
  if (!mask.data) throw Error(Kind::INPUT, "mask has no data; expected " + expected + ".");
}

// An input as [n, c, y, x], or as one row where there are no pixels.
static sige_compare_args arguments(const InputSpec& spec) {
  sige_compare_args args{};
  args.element = element_of(spec.dtype);
  const auto count = static_cast<int32_t>(std::min<int64_t>(count_of(spec.shape), INT32_MAX));
  for (int i = 0; i < 4; ++i) {
    args.size[i] = i < 3 ? 1 : count;
    args.stride[i] = i < 3 ? count : 1;
    if (!spec.spatial()) continue;
    const size_t axis = spec.axes.find("NCYX"[i]);
    args.size[i] = static_cast<int32_t>(spec.size("NCYX"[i]));
    args.stride[i] = axis == std::string::npos ? 0 : 1;
    for (size_t inner = axis; args.stride[i] && ++inner < spec.shape.size();) args.stride[i] *= spec.shape[inner];
  }
  return args;
}

Comparison::Comparison(const Memory& memory, const Manifest& manifest, int32_t* status)
    : status_(status), execution_(memory.execution()) {
  for (const InputSpec& spec : manifest.inputs) {
    args_.push_back(arguments(spec));
    args_.back().eps = manifest.eps;
  }
}

void Comparison::launch(const std::vector<const void*>& given, const std::vector<const void*>& recorded,
                        const std::vector<uint8_t*>& masks) {
  for (size_t i = 0; i < args_.size(); ++i) {
    args_[i].given = given[i];
    args_[i].recorded = recorded.empty() ? nullptr : recorded[i];
    args_[i].mask = masks[i];
  }
  check(sige_compare(args_.data(), static_cast<int32_t>(args_.size()), status_, &execution_));
}

}  // namespace sige
