/**
 * DSSE envelopes (https://github.com/secure-systems-lab/dsse, version 1): a payload, its type, and Ed25519 signatures over both.
 *
 * Read strictly: keys in the order payload, payloadType, signatures; in a signature keyid, sig; base64 as RFC 4648 section 4 with padding; signatures in ascending order of
 * key ids, none twice. So there is one way to write an envelope down, blanks aside.
 */
#ifndef MR3D_CERTIFY_ENVELOPE_H
#define MR3D_CERTIFY_ENVELOPE_H

#include "keys.h"

#define MR3D_STATEMENT_TYPE "application/vnd.in-toto+json"
#define MR3D_WAIVERS_TYPE "application/vnd.mr3d.waivers+json"
#define MR3D_ROTATION_TYPE "application/vnd.mr3d.rotation+json"
#define MR3D_MAX_SIGNATURES 16

typedef struct mr3d_signature {
  char key_id[MR3D_KEY_ID + 1];
  unsigned char bytes[64];
} mr3d_signature;

typedef struct mr3d_envelope {
  char *type, *payload; /**< the payload is `size` bytes with a zero behind them */
  size_t size;
  int n_signatures;
  mr3d_signature signatures[MR3D_MAX_SIGNATURES];
} mr3d_envelope;

/** An envelope without signatures. Copies. Ownership: mr3d_envelope_free. */
mr3d_envelope *mr3d_envelope_new(const char *type, const char *payload, size_t size);
void mr3d_envelope_free(mr3d_envelope **);

/** Errors: signed by that key already; too many signatures. */
mr3d_status mr3d_envelope_sign(mr3d_envelope *, const mr3d_secret_key *, mr3d_error *);

/** Whether the envelope bears a good signature of a key: MR3D_OK; MR3D_UNSUPPORTED: none with its key id; MR3D_INVALID: one that does not fit the content. */
mr3d_status mr3d_envelope_check(const mr3d_envelope *, const mr3d_public_key *, mr3d_error *);

/** Errors: MR3D_FORMAT with what was expected. Ownership: on success *envelope is the caller's. */
mr3d_status mr3d_envelope_parse(const char *text, size_t size, mr3d_envelope **envelope, mr3d_error *);
/** One JSON object, ended by a line break. Ownership: the caller's. */
char *mr3d_envelope_print(const mr3d_envelope *);

/** The same of a file; errors name it. */
mr3d_status mr3d_envelope_load(const char *path, mr3d_envelope **envelope, mr3d_error *);
mr3d_status mr3d_envelope_save(const mr3d_envelope *, const char *path, mr3d_error *);

/** "DSSEv1 28 application/vnd.in-toto+json 3 {}\n": what is signed. Ownership: the caller's. */
char *mr3d_envelope_signed_bytes(const mr3d_envelope *, size_t *size);

#endif
