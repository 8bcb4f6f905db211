/* SPDX-License-Identifier: Apache-2.0 */
/* OpenSSL's libcrypto, which chooses its way by the CPU's features. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "speed.h"

#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#define BLOCK 65536

static unsigned char *plain, *sealed;

static void plain_up(void)
{
	plain = space(BLOCK);
	sealed = space(BLOCK + 64);
	fill_text((char *)plain, BLOCK);
}

static uint64_t seal(const EVP_CIPHER *cipher, int times)
{
	static const unsigned char key[32] = "a key that is not a secret, here";
	unsigned char iv[16] = { 1, 2, 3 }, tag[16] = { 0 };
	uint64_t sum = 0;
	for (int i = 0; i < times; i++) {
		EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
		int size = 0, rest = 0;
		iv[4] = (unsigned char)i;
		if (!context || !EVP_EncryptInit_ex(context, cipher, NULL, key, iv) ||
		    !EVP_EncryptUpdate(context, sealed, &size, plain, BLOCK) ||
		    !EVP_EncryptFinal_ex(context, sealed + size, &rest) ||
		    !EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, tag))
			die("cipher");
		EVP_CIPHER_CTX_free(context);
		sum = mix_bytes(sum, tag, 16);
	}
	return sum;
}

PROGRAM(vectors, aes, 0x58e7fb23150fbc, .set_up = plain_up)
{
	return seal(EVP_aes_256_gcm(), 60);
}

PROGRAM(vectors, chacha, 0xebb2ead960f7a978, .set_up = plain_up)
{
	return seal(EVP_chacha20_poly1305(), 40);
}

PROGRAM(vectors, sha, 0xae8b8ca5a7fec54c, .set_up = plain_up)
{
	uint64_t sum = 0;
	for (int i = 0; i < 20; i++) {
		unsigned char digest[EVP_MAX_MD_SIZE];
		unsigned size;
		if (!EVP_Digest(plain, BLOCK, digest, &size, i % 4 ? EVP_sha256() : EVP_sha512(), NULL))
			die("digest");
		sum = mix_bytes(sum, digest, size);
	}
	return sum;
}

/* --- RSA with 2048 bits; the primes are the first after 3 * 2^1022 and 7 * 2^1021 --- */

static RSA *rsa;

static BIGNUM *prime_at(unsigned long factor, int shift, unsigned long add)
{
	BIGNUM *p = BN_new();
	BN_CTX *context = BN_CTX_new();
	if (!p || !context || !BN_set_word(p, factor) || !BN_lshift(p, p, shift) || !BN_add_word(p, add) ||
	    BN_check_prime(p, context, NULL) != 1)
		die("prime");
	BN_CTX_free(context);
	return p;
}

static void rsa_up(void)
{
	BIGNUM *p = prime_at(3, 1022, 1037), *q = prime_at(7, 1021, 309), *n = BN_new(), *e = BN_new(), *d = BN_new();
	BIGNUM *p1 = BN_dup(p), *q1 = BN_dup(q), *phi = BN_new(), *dp = BN_new(), *dq = BN_new(), *qinv = BN_new();
	BN_CTX *context = BN_CTX_new();
	rsa = RSA_new();
	if (!rsa || !context || !BN_sub_word(p1, 1) || !BN_sub_word(q1, 1) || !BN_mul(n, p, q, context) ||
	    !BN_mul(phi, p1, q1, context) || !BN_set_word(e, 65537) || !BN_mod_inverse(d, e, phi, context) ||
	    !BN_mod(dp, d, p1, context) || !BN_mod(dq, d, q1, context) || !BN_mod_inverse(qinv, q, p, context) ||
	    !RSA_set0_key(rsa, n, e, d) || !RSA_set0_factors(rsa, p, q) || !RSA_set0_crt_params(rsa, dp, dq, qinv))
		die("rsa");
	/* Blinding asks for random numbers, for which a guest may wait. */
	RSA_set_flags(rsa, RSA_FLAG_NO_BLINDING);
}

PROGRAM(vectors, rsa, 0xbace2c1218348137, .set_up = rsa_up)
{
	uint64_t sum = 0;
	for (int i = 0; i < 4; i++) {
		unsigned char digest[32] = { (unsigned char)i }, signature[256];
		unsigned size;
		if (!RSA_sign(NID_sha256, digest, 32, signature, &size, rsa) ||
		    !RSA_verify(NID_sha256, digest, 32, signature, size, rsa))
			die("rsa");
		sum = mix_bytes(sum, signature, size);
	}
	return sum;
}
