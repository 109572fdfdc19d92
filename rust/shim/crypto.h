/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What net/crypto.rs needs of the kernel's crypto library, whose types are opaque to Rust, and whose functions are partly inline.
 */
#ifndef VREMOTE_SHIM_CRYPTO_H
#define VREMOTE_SHIM_CRYPTO_H

#include <linux/types.h>
#include <linux/uio.h>

/* Digests of several parts, one behind the other: 32 bytes. */
void vremote_sha256(const struct kvec *parts, size_t count, u8 *digest);
void vremote_hmac_sha256(const u8 *key, size_t key_bytes, const struct kvec *parts, size_t count, u8 *digest);

/* X25519; false if the result is all zero. */
bool vremote_x25519(u8 *shared, const u8 *secret, const u8 *public);
bool vremote_x25519_public(u8 *public, const u8 *secret);

bool vremote_equal(const u8 *one, const u8 *other, size_t bytes);
void vremote_random(u8 *bytes, size_t count);

#endif
