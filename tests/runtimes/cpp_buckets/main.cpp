// Rows of the buckets of a manifest: counts of active pixels from stdin, a line each, to rows on stdout.
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "buckets.h"

int main(int, char** arguments) {
  std::ifstream file(arguments[1]);
  const sige::Buckets buckets(sige::read_manifest(nlohmann::json::parse(file)));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::vector<int32_t> counts;
    for (int32_t count; words >> count;) counts.push_back(count);
    for (const int32_t rows : buckets.fit(counts)) std::cout << rows << ' ';
    std::cout << '\n';
  }
}
