/**
 * Ed25519 keys in files. A public key is JSON as securesystemslib and in-toto read it; a private one holds its seed too, in the clear or sealed by a passphrase.
 */
#ifndef MR3D_CERTIFY_KEYS_H
#define MR3D_CERTIFY_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include "mr3d/status.h"

#define MR3D_KEY_ID 64 /* hexadecimal digits: SHA-256 of the 32 bytes of the public key */

typedef struct mr3d_public_key {
  char id[MR3D_KEY_ID + 1];
  unsigned char bytes[32];
} mr3d_public_key;

typedef struct mr3d_secret_key {
  mr3d_public_key public;
  unsigned char bytes[64]; /**< as libsodium keeps it; mr3d_secret_key_clear after use */
} mr3d_secret_key;

mr3d_status mr3d_secret_key_draw(mr3d_secret_key *, mr3d_error *);
void mr3d_secret_key_clear(mr3d_secret_key *);

/** Writes NAME (mode 0600; `passphrase` NULL: in the clear) and NAME.pub, neither of which may exist. Errors leave neither. */
mr3d_status mr3d_secret_key_save(const mr3d_secret_key *, const char *passphrase, const char *path, mr3d_error *);

/** Whether the file's key is sealed. Errors: as mr3d_secret_key_load. */
mr3d_status mr3d_secret_key_is_sealed(const char *path, bool *sealed, mr3d_error *);
/** Errors: cannot be read, others may read it, malformed, a passphrase is needed (`passphrase` NULL) or wrong. */
mr3d_status mr3d_secret_key_load(const char *path, const char *passphrase, mr3d_secret_key *, mr3d_error *);
mr3d_status mr3d_public_key_load(const char *path, mr3d_public_key *, mr3d_error *);

/** {"keyid": .., "keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": ..}}. Ownership: the caller's. */
char *mr3d_public_key_print(const mr3d_public_key *);
/** The key of such text. Errors: malformed, or a key id that is not the key's. */
mr3d_status mr3d_public_key_parse(const char *text, size_t size, mr3d_public_key *, mr3d_error *);

/**
 * A rotation: the old key says which one succeeds it, the new one that it is at hand, in one envelope with both signatures. `from` and `to` are filled from it.
 */
struct mr3d_envelope;
mr3d_status mr3d_rotation_make(const mr3d_secret_key *old, const mr3d_secret_key *fresh, const char *date, struct mr3d_envelope **, mr3d_error *);
mr3d_status mr3d_rotation_read(const struct mr3d_envelope *, mr3d_public_key *from, mr3d_public_key *to, mr3d_error *);

#endif
