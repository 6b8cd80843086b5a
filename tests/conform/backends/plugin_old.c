/* A plug-in compiled when the table ended after rope1d (OLD), of another ABI (OTHER), or none at all (NONE): it lies about nothing else. */
#include <stddef.h>

#include "mr3d/backend.h"

#ifndef NONE
static int rope1d(void *state, const mr3d_backend_request *r, mr3d_backend_reply *reply) {
  (void)state;
  const int64_t one = 1;
  DLTensor *y = reply->output(reply, "y", "F32", 1, &one);
  ((float *)y->data)[0] = (float)r->n_tensors;
  return 0;
}

static int supports(const char *op, const char *tier) { return op && tier; }

const mr3d_backend_plugin *mr3d_backend_entry(uint32_t abi_version) {
  (void)abi_version;
  /* What lies behind struct_size is not the plug-in's: a host that reads it would call nonsense. */
  static mr3d_backend_plugin table;
  unsigned char *rest = (unsigned char *)&table;
  for (size_t i = 0; i < sizeof table; i++) rest[i] = 0x5A;
  table.abi_version = MR3D_BACKEND_ABI_VERSION;
#ifdef OTHER
  table.abi_version = 1000;
#endif
  table.struct_size = offsetof(mr3d_backend_plugin, cis3d);
  table.name = "old", table.version = "0";
  table.supports = supports, table.create = NULL, table.destroy = NULL;
  table.splice = NULL, table.mask = NULL, table.rope1d = rope1d;
  return &table;
}
#else
int mr3d_no_entry_here(void);
int mr3d_no_entry_here(void) { return 0; }
#endif
