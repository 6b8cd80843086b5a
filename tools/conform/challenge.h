/** A challenge: inputs that nobody can know before the one who checks has chosen a nonce (docs/certificate.md, "Challenge"). */
#ifndef MR3D_CONFORM_CHALLENGE_H
#define MR3D_CONFORM_CHALLENGE_H

#include "case.h"

#define MR3D_LEAST_NONCE 16 /* bytes */
#define MR3D_MOST_NONCE 64

typedef struct mr3d_challenge {
  int n_bytes;
  unsigned char nonce[MR3D_MOST_NONCE];
} mr3d_challenge;

/** How a case is asked at a tier. Every one is asked MR3D_PLAIN; the nonce picks one in MR3D_PICKED of each for the others. */
typedef enum mr3d_variant {
  MR3D_PLAIN,
  MR3D_OTHER_SEED, /**< other inputs */
  MR3D_BESIDE,     /**< its samples in one batch with those of other inputs */
  MR3D_AGAIN,      /**< the plain requests once more, in another order, of a backend begun anew: answers must be the same */
  MR3D_N_VARIANTS
} mr3d_variant;

#define MR3D_PICKED 8

/** "" for plain, "#seed", "#batch", "#again": what follows the name of a test. */
const char *mr3d_variant_suffix(mr3d_variant);

/** Reads a nonce in hexadecimal. Errors: another character, too short, too long. */
mr3d_status mr3d_challenge_parse(const char *hex, mr3d_challenge *, mr3d_error *);
/** Lower case. `hex` holds 2 * MR3D_MOST_NONCE + 1 bytes. */
void mr3d_challenge_print(const mr3d_challenge *, char *hex);

bool mr3d_challenge_equal(const mr3d_challenge *, const mr3d_challenge *);

/** The seed of a case's inputs: BLAKE2b, keyed with the nonce, of the suite's version, the case's id and the variant. MR3D_AGAIN has that of MR3D_PLAIN. */
uint64_t mr3d_challenge_seed(const mr3d_challenge *, const char *id, mr3d_variant);
/** What the samples of MR3D_BESIDE stand beside, and the order in which MR3D_AGAIN is asked. */
uint64_t mr3d_challenge_neighbour_seed(const mr3d_challenge *, const char *id);
uint64_t mr3d_challenge_order_seed(const mr3d_challenge *);

/** Whether a case is asked that way at a tier. Always the same for one nonce, so that the tests of a certificate can be counted. */
bool mr3d_challenge_asks(const mr3d_challenge *, const mr3d_case *, mr3d_tier, mr3d_variant);
/** A number drawn for a purpose: small ones are picked first where only some are wanted. */
uint64_t mr3d_challenge_draw(const mr3d_challenge *, const char *purpose, const char *id, const char *more);

/** Whether samples of a case may stand in one batch with others: all its steps ask operators on a batch, which answer, and none feeds on an earlier answer. */
bool mr3d_case_takes_neighbours(const mr3d_case *);
/**
 * One request that holds the samples of two of the same case, those of `first` first; what is not a sample's own (weights, frequencies) is that of `shared`, which is
 * one of the two. Requires: mr3d_case_takes_neighbours. Errors: MR3D_INVALID where shapes differ.
 */
mr3d_status mr3d_neighbours_join(const mr3d_bundle *first, const mr3d_bundle *second, const mr3d_bundle *shared, mr3d_bundle **joined, mr3d_error *);

#endif
