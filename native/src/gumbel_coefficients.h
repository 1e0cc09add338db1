// Ascending fp32 coefficients, the same numbers as twins/gumbel.py:
// ln(1+f) = f - f^2/2 + f^3 Q(f) on [sqrt(1/2)-1, sqrt(2)-1];  -ln(1-x) = x exp(x R(x)) on (0, 1/2].
#pragma once

namespace primed {

constexpr float kQ[] = {0x1.555554p-2f,  -0x1.fffff2p-3f, 0x1.999d50p-3f,
                        -0x1.555ed8p-3f, 0x1.23d6b6p-3f,  -0x1.fc5b4cp-4f,
                        0x1.dda7cep-4f,  -0x1.d9f4d6p-4f, 0x1.24da9ap-4f};
constexpr float kR[] = {0x1.000000p-1f,  0x1.aaa9acp-3f,  0x1.0032fep-3f,
                        0x1.5d2cdap-4f,  0x1.59bbb0p-4f,  -0x1.74d66ap-5f,
                        0x1.5b747ep-2f,  -0x1.ca4c5cp-2f, 0x1.8ce812p-2f};

}  // namespace primed
