#pragma once

#include "source.h"

namespace sige::ort {

class Gather : Kernel {
 public:
  static constexpr const char* NAME = "Gather";
  static constexpr Input INPUTS[] = {ROWS, BASE, HALO, TABLE, SCALE, SHIFT, ROWS_2, BASE_2};

  Gather(const Ort::ConstKernelInfo& info, const Target& target);
  void run(Call& call) const;

 private:
  Sources sources_;
  sige_activation activation_;
  float alpha_;
  int32_t phases_;
  float pad_value_;
};

}  // namespace sige::ort
