// SPDX-License-Identifier: GPL-2.0
/* See crypto.h. */

#include <crypto/curve25519.h>
#include <crypto/sha2.h>
#include <crypto/utils.h>
#include <linux/random.h>

#include "crypto.h"

void vremote_sha256(const struct kvec *parts, size_t count, u8 *digest)
{
	struct sha256_ctx ctx;

	sha256_init(&ctx);
	for (; count; parts++, count--)
		sha256_update(&ctx, parts->iov_base, parts->iov_len);
	sha256_final(&ctx, digest);
}

void vremote_hmac_sha256(const u8 *key, size_t key_bytes, const struct kvec *parts, size_t count, u8 *digest)
{
	struct hmac_sha256_ctx ctx;

	hmac_sha256_init_usingrawkey(&ctx, key, key_bytes);
	for (; count; parts++, count--)
		hmac_sha256_update(&ctx, parts->iov_base, parts->iov_len);
	/* Clears the context. */
	hmac_sha256_final(&ctx, digest);
}

bool vremote_x25519(u8 *shared, const u8 *secret, const u8 *public)
{
	return curve25519(shared, secret, public);
}

bool vremote_x25519_public(u8 *public, const u8 *secret)
{
	return curve25519_generate_public(public, secret);
}

bool vremote_equal(const u8 *one, const u8 *other, size_t bytes)
{
	return !crypto_memneq(one, other, bytes);
}

/* Waits for entropy only before the system has any. */
void vremote_random(u8 *bytes, size_t count)
{
	get_random_bytes_wait(bytes, count);
}
