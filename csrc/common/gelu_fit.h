// Minimax fits behind gelu in float32, for every backend: 1/2 + x p(2 x^2 / limit^2 - 1) up to `limit`.
#pragma once

namespace fastdl {

// The normal distribution function, 6e-8; beyond the limit it is 0 or 1 to that accuracy.
struct NormalCdfFit {
  static constexpr float limit = 5.2f;
  static constexpr float p[] = {1.359499991e-01f, -6.774366647e-02f, 5.002452061e-02f, -3.992981836e-02f,
                                3.198995814e-02f, -2.472363040e-02f, 1.795478724e-02f, -1.250511874e-02f,
                                8.559969254e-03f, -4.789042752e-03f, 1.800121623e-03f, -1.221490442e-03f,
                                1.268511405e-03f, -4.812781699e-04f};
};

// The derivative of x times that function, 6e-8.
struct GeluSlopeFit {
  static constexpr float limit = 5.6f;
  static constexpr float p[] = {1.264166385e-01f, -6.428230554e-02f, 5.180795863e-02f, -5.097242445e-02f,
                                5.668487772e-02f, -6.488230079e-02f, 7.162958384e-02f, -7.375118136e-02f,
                                6.661073864e-02f, -5.165326595e-02f, 4.266029969e-02f, -3.816177323e-02f,
                                2.042316832e-02f, -2.595307771e-03f, 4.184586927e-03f, -8.000639267e-03f,
                                3.167125862e-03f};
};

}  // namespace fastdl
