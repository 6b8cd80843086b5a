/** What both ends of the protocol must spell alike (docs/protocol.md). */
#ifndef MR3D_CONFORM_PROTOCOL_H
#define MR3D_CONFORM_PROTOCOL_H

#define MR3D_PROTOCOL "1"
/** Largest frame unless an option says otherwise: 4 GiB. */
#define MR3D_FRAME_CAP ((uint64_t)4 << 30)

/** Protections by which a backend that is begun anew knows nothing of what it was asked before: of a command, of a plug-in. Certificates look for them. */
#define MR3D_FORGETS "files it writes are forgotten when it ends"
#define MR3D_READS_ONLY "files read-only by "

/** Every operator of the protocol, in its order; also the order of the functions in mr3d/backend.h. */
#define MR3D_PROTOCOL_OPS(X)                                                                                            \
  X(splice) X(mask) X(rope1d) X(cis3d) X(rope3d) X(normalize_coords) X(mixed_rope) X(rmsnorm) X(linear) X(swiglu)       \
  X(attention) X(attention_block) X(decoder_layer) X(prefill) X(decode) X(drop_session) X(voxelize) X(token_coords)     \
  X(encode_points)

#endif
