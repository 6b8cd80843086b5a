#include "merkle.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "mr3d/status.h"

void mr3d_merkle_leaf(const void *bytes, size_t size, unsigned char leaf[MR3D_DIGEST]) {
  crypto_hash_sha256_state state;
  crypto_hash_sha256_init(&state);
  crypto_hash_sha256_update(&state, (const unsigned char[]){0}, 1);
  crypto_hash_sha256_update(&state, bytes, size);
  crypto_hash_sha256_final(&state, leaf);
}

void mr3d_merkle_root(size_t n, unsigned char (*const leaves)[MR3D_DIGEST], unsigned char root[MR3D_DIGEST]) {
  if (n == 0) {
    crypto_hash_sha256(root, NULL, 0);
    return;
  }
  if (n == 1) {
    memcpy(root, leaves[0], MR3D_DIGEST);
    return;
  }
  size_t left = 1;
  while (2 * left < n) left *= 2;
  unsigned char node[1 + 2 * MR3D_DIGEST] = {1};
  mr3d_merkle_root(left, leaves, node + 1);
  mr3d_merkle_root(n - left, leaves + left, node + 1 + MR3D_DIGEST);
  crypto_hash_sha256(root, node, sizeof node);
}

size_t mr3d_merkle_of_lines(const char *text, char hex[MR3D_HEX_DIGEST]) {
  size_t n = 0, k = 0;
  unsigned char root[MR3D_DIGEST];
  for (const char *c = text; *c; c++) n += *c == '\n';
  unsigned char(*leaves)[MR3D_DIGEST] = mr3d_allocate((long long)n, MR3D_DIGEST);
  for (const char *line = text, *end; k < n; line = end + 1) {
    end = strchr(line, '\n');
    mr3d_merkle_leaf(line, (size_t)(end - line), leaves[k++]);
  }
  mr3d_merkle_root(n, leaves, root);
  free(leaves);
  sodium_bin2hex(hex, MR3D_HEX_DIGEST, root, sizeof root);
  return n;
}
