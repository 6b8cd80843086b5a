/** FNV-1a over the bytes of a string, 64 bits (docs/generator.md): keys of random streams, slots of name tables. */
#ifndef MR3D_BASE_HASH_H
#define MR3D_BASE_HASH_H

#include <stdint.h>

static inline uint64_t mr3d_fnv1a(const char *text) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (; *text != '\0'; text++)
    hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
  return hash;
}

#endif
