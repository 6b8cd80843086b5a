/** Profiles: which cases a certificate is about, as exact lists with versions (golden/profiles.json), and the tests that a nonce makes of them. */
#ifndef MR3D_CERTIFY_PROFILE_H
#define MR3D_CERTIFY_PROFILE_H

#include "merkle.h"
#include "shard.h"

typedef struct mr3d_profile {
  const char *name;   /**< "core", "decoder", "scan" */
  const char *levels; /**< "L0,L1,L2" */
  const char *proves; /**< what a pass means, a sentence */
} mr3d_profile;

/** NULL behind the last. */
const mr3d_profile *mr3d_profile_at(int index);
/** Errors: no such profile, with the one that was meant. */
mr3d_status mr3d_profile_named(const char *name, const mr3d_profile **, mr3d_error *);

/** Whether a case belongs: its level does, and it needs no data folder, which not everybody has. */
bool mr3d_profile_has(const mr3d_profile *, const mr3d_case *);

/** The list as text, a line for each case: its id, then the tiers it runs at. Ownership: the caller's. */
char *mr3d_profile_list(const mr3d_profile *, const mr3d_suite *);
/** The version that golden/profiles.json gives this very list. Errors: the file is missing, or lists another. */
mr3d_status mr3d_profile_version(const mr3d_profile *, const mr3d_suite *, int *version, char root[MR3D_HEX_DIGEST], mr3d_error *);

/** What a certificate is about: all that decides which tests there are. */
typedef struct mr3d_scope {
  const mr3d_profile *profile;
  uint32_t tiers;    /**< bit per mr3d_tier, at least one */
  const char *ops;   /**< NULL: all; else joined by commas: only cases all of whose steps ask these */
  mr3d_challenge challenge;
  mr3d_shard shard;  /**< of 0: all */
} mr3d_scope;

bool mr3d_scope_has(const mr3d_scope *, const mr3d_case *);

/** One test: a case at a tier, asked in one way. */
typedef struct mr3d_test {
  const mr3d_case *test;
  mr3d_tier tier;
  mr3d_variant variant;
} mr3d_test;

#define MR3D_TEST_NAME 224
/** "attention/gqa@fp32#batch". */
const char *mr3d_test_name(const mr3d_test *, char name[MR3D_TEST_NAME]);

/** All tests of a scope, in the order of the suite, tiers and variants. Errors: none, or the shards cannot be dealt. Ownership: the caller's; free(). */
mr3d_status mr3d_scope_tests(const mr3d_scope *, const mr3d_suite *, mr3d_test **, int *n, mr3d_error *);

#endif
