/** Merkle tree hash of RFC 6962 section 2.1 with SHA-256: a leaf is hashed behind a byte 0, a node behind a byte 1. A tree over n leaves splits at the largest power
 * of two below n, so no leaf is ever doubled and two lists never share a root. */
#ifndef MR3D_CERTIFY_MERKLE_H
#define MR3D_CERTIFY_MERKLE_H

#include <stddef.h>

#define MR3D_DIGEST 32
#define MR3D_HEX_DIGEST (2 * MR3D_DIGEST + 1)

void mr3d_merkle_leaf(const void *bytes, size_t size, unsigned char leaf[MR3D_DIGEST]);
/** Of no leaves: SHA-256 of nothing. */
void mr3d_merkle_root(size_t n, unsigned char (*const leaves)[MR3D_DIGEST], unsigned char root[MR3D_DIGEST]);
/** The root over the lines of a text, each without its line break, in hexadecimal; returns how many there are. Requires: the text ends with a line break, or is empty. */
size_t mr3d_merkle_of_lines(const char *text, char root[MR3D_HEX_DIGEST]);

#endif
