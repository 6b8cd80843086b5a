/** What the commands that sign and check have in common. */
#ifndef MR3D_SIGNING_H
#define MR3D_SIGNING_H

#include "statement.h"

#define MR3D_MAX_KEYS 16

/* Options that several commands have, for their tables. */
#define MR3D_KEY_OPTIONS(key, passphrase_file)                                                          \
  {"--key", "FILE", MR3D_OPTION_TEXT, key, "private key to sign with (needed; mr3d keygen)"},           \
      {"--passphrase-file", "FILE", MR3D_OPTION_TEXT, passphrase_file, "that opens it; else it is asked for"}
#define MR3D_CERTIFICATE_OPTIONS(out, waivers, waiver_keys)                                                                                           \
  {"-o", "FILE", MR3D_OPTION_TEXT, out, "the certificate (needed; must not exist). A report of failure goes to FILE.failure"},                        \
      {"--waivers", "FILE", MR3D_OPTION_TEXT, waivers, "signed list of failures that somebody answers for (mr3d sign)"},                              \
      {"--waiver-key", "LIST", MR3D_OPTION_TEXT, waiver_keys, "public keys of those who may (default: that of --key)"}

/** Loads a private key; a sealed one is opened by the first line of `passphrase_file` or, where that is NULL, what is typed at the terminal. */
mr3d_status mr3d_open_key(const char *path, const char *passphrase_file, mr3d_secret_key *, mr3d_error *);
/** A passphrase: the first line of a file, or typed (twice, where `twice`). `passphrase` holds `size` bytes. */
mr3d_status mr3d_get_passphrase(const char *file, bool twice, char *passphrase, size_t size, mr3d_error *);

/** Loads the public keys of a list joined by commas; none where `list` is NULL. Errors also: a list that names none. */
mr3d_status mr3d_load_keys(const char *list, int *n, mr3d_public_key keys[MR3D_MAX_KEYS], mr3d_error *);
/** Whether what is signed can be written there: before anything else is done, since that may take hours. Errors: a file is there, none can be made. */
mr3d_status mr3d_new_file(const char *path, mr3d_error *);

/** MR3D_OK where one of the keys has signed; else what is wrong with the last one's signature. */
mr3d_status mr3d_signed_by_one(const mr3d_envelope *, int n, const mr3d_public_key keys[], mr3d_error *);

/** A signed list of waivers, which must be good today, by one of the keys in a list joined by commas; NULL: by `own`. */
mr3d_status mr3d_open_waivers(const char *path, const char *keys, const mr3d_public_key *own, mr3d_envelope **, mr3d_error *);

/** A payload as a signed statement, in `out` or, where it is a report of failure, in `failure`; says so. */
mr3d_status mr3d_issue_statement(const char *payload, const mr3d_conclusion *, const mr3d_secret_key *, const char *out, const char *failure, mr3d_error *);

#endif
