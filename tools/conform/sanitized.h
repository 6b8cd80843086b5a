/** Whether an address sanitizer is built in: it reserves terabytes, and looks for leaks in its own process as a debugger would. */
#ifndef MR3D_CONFORM_SANITIZED_H
#define MR3D_CONFORM_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__)
#define MR3D_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MR3D_SANITIZED 1
#endif
#endif
#ifndef MR3D_SANITIZED
#define MR3D_SANITIZED 0
#endif

#endif
