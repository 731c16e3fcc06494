#include <iostream>
#include <vector>

int main() {
  constexpr int limit = 1'000'000;
  std::vector<bool> composite(limit + 1);
  int count = 0;
  for (int i = 2; i <= limit; ++i) {
    if (composite[i])
      continue;
    ++count;
    for (long j = static_cast<long>(i) * i; j <= limit; j += i)
      composite[static_cast<size_t>(j)] = true;
  }
  std::cout << "primes up to " << limit << ": " << count << "\n";
}
