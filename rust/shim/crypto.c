// SPDX-License-Identifier: GPL-2.0
/* See crypto.h. Nothing here works in place on memory that a page cache shares: text is in datagrams only. */

#include <crypto/aes-gcm.h>
#include <crypto/curve25519.h>
#include <crypto/sha2.h>
#include <crypto/utils.h>
#include <linux/random.h>
#include <linux/slab.h>

#include "crypto.h"

#define KEY_BYTES 32
#define TAG_BYTES 16

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

struct vremote_gcm {
	struct aes_gcm_key key;
};

/* The lengths are right, so that a key cannot be refused. */
static void prepare(struct vremote_gcm *gcm, const u8 *key)
{
	WARN_ON_ONCE(aes_gcm_preparekey(&gcm->key, key, KEY_BYTES, TAG_BYTES));
}

struct vremote_gcm *vremote_gcm_new(const u8 *key)
{
	struct vremote_gcm *gcm = kmalloc(sizeof(*gcm), GFP_KERNEL);

	if (gcm)
		prepare(gcm, key);
	return gcm;
}

void vremote_gcm_free(struct vremote_gcm *gcm)
{
	kfree_sensitive(gcm);
}

void vremote_gcm_seal(const struct vremote_gcm *gcm, const u8 *nonce, const u8 *ad, size_t ad_bytes,
		      const struct kvec *parts, size_t count, u8 *out, u8 *tag)
{
	struct aes_gcm_ctx ctx;

	aes_gcm_init(&ctx, nonce, &gcm->key);
	aes_gcm_auth_update(&ctx, ad, ad_bytes);
	for (; count; parts++, count--) {
		aes_gcm_encrypt_update(&ctx, out, parts->iov_base, parts->iov_len);
		out += parts->iov_len;
	}
	aes_gcm_encrypt_final(&ctx, tag);
}

bool vremote_gcm_open(const struct vremote_gcm *gcm, const u8 *nonce, const u8 *ad, size_t ad_bytes, u8 *text, size_t bytes,
		      const u8 *tag)
{
	return !aes_gcm_decrypt(text, text, bytes, tag, ad, ad_bytes, nonce, &gcm->key);
}

void vremote_gcm_seal_once(const u8 *key, const u8 *nonce, const u8 *ad, size_t ad_bytes, u8 *text, size_t bytes, u8 *tag)
{
	struct vremote_gcm gcm;

	prepare(&gcm, key);
	aes_gcm_encrypt(text, text, bytes, tag, ad, ad_bytes, nonce, &gcm.key);
	memzero_explicit(&gcm, sizeof(gcm));
}

bool vremote_gcm_open_once(const u8 *key, const u8 *nonce, const u8 *ad, size_t ad_bytes, u8 *text, size_t bytes,
			   const u8 *tag)
{
	struct vremote_gcm gcm;
	bool genuine;

	prepare(&gcm, key);
	genuine = vremote_gcm_open(&gcm, nonce, ad, ad_bytes, text, bytes, tag);
	memzero_explicit(&gcm, sizeof(gcm));
	return genuine;
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
