//! The mint's own keys: made from a fixed seed, so that every process of a test has the same, and kept for the process.
use cvdmirror::cvd::{PublicKey, TrustKeys};
use num_bigint::BigUint;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// The private halves of a set of trust keys.
pub struct Keys {
    pub legacy: PrivateKey,
    pub cdiff: PrivateKey,
    pub info: PrivateKey,
}

pub struct PrivateKey {
    n: BigUint,
    e: BigUint,
    d: BigUint,
}

/// The keys of the mint.
pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys::generate(1))
}

impl Keys {
    /// Makes a set; takes about a second, so prefer [`keys`].
    pub fn generate(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut key = |bits, e| PrivateKey::generate(&mut rng, bits, e);
        Self { legacy: key(1024, 100_001_027), cdiff: key(2047, 100_002_053), info: key(2047, 100_002_049) }
    }

    pub fn public(&self) -> TrustKeys {
        TrustKeys { legacy: self.legacy.public(), cdiff: self.cdiff.public(), info: self.info.public() }
    }

    /// Talos' moduli as decimal text, and the mint's for the same purpose.
    pub fn moduli_for_talos(&self) -> [(String, String); 3] {
        let talos = TrustKeys::talos();
        let pair = |talos: &PublicKey, own: &PrivateKey| (talos.n().to_string(), own.n.to_string());
        [pair(&talos.legacy, &self.legacy), pair(&talos.cdiff, &self.cdiff), pair(&talos.info, &self.info)]
    }

    /// The public halves as the configuration takes them.
    pub fn toml(&self) -> String {
        let line = |name, key: &PrivateKey| format!("{name} = {{ n = \"{:x}\", e = {} }}\n", key.n, key.e);
        [line("legacy", &self.legacy), line("cdiff", &self.cdiff), line("info", &self.info)].concat()
    }
}

impl PrivateKey {
    fn generate(rng: &mut StdRng, bits: u64, e: u32) -> Self {
        let e = BigUint::from(e);
        loop {
            let (p, q) = (prime(rng, bits.div_ceil(2)), prime(rng, bits / 2));
            let n = &p * &q;
            let phi = (&p - 1u32) * (&q - 1u32);
            if n.bits() == bits
                && p != q
                && let Some(d) = e.modinv(&phi)
            {
                return Self { n, e, d };
            }
        }
    }

    fn public(&self) -> PublicKey {
        PublicKey::from_be_bytes(&self.n.to_bytes_be(), &self.e.to_bytes_be()).unwrap()
    }

    /// The legacy signature of a body's MD5.
    pub fn sign_legacy(&self, md5: &[u8; 16]) -> String {
        self.seal(&BigUint::from_bytes_be(md5))
    }

    /// The PSS signature of data.
    ///
    /// ClamAV 1.4 refuses one whose opened form begins with a zero byte.
    pub fn sign_pss(&self, data: &[u8], rng: &mut StdRng) -> String {
        loop {
            let em = BigUint::from_bytes_be(&Unmasked::proper(&rng.random()).mask(&Sha256::digest(data)));
            if em < self.n && em.bits() > 8 * 255 {
                return self.seal(&em);
            }
        }
    }

    /// A signature whose opened form is what `change` makes of a proper one. Data that is signed so is not.
    pub fn sign_pss_wrongly(&self, data: &[u8], change: impl Fn(&mut Unmasked)) -> String {
        for salt in 0..=u8::MAX {
            let mut unmasked = Unmasked::proper(&[salt; 32]);
            change(&mut unmasked);
            let em = BigUint::from_bytes_be(&unmasked.mask(&Sha256::digest(data)));
            if em < self.n {
                return self.seal(&em);
            }
        }
        panic!("no salt gives a number below the modulus")
    }

    fn seal(&self, value: &BigUint) -> String {
        const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
        let digits = value.modpow(&self.d, &self.n).to_radix_le(64);
        digits.into_iter().map(|digit| char::from(ALPHABET[usize::from(digit)])).collect()
    }
}

/// A PSS message before it is masked: padding, salt and trailer.
pub struct Unmasked {
    pub db: [u8; 223],
    pub trailer: u8,
}

impl Unmasked {
    fn proper(salt: &[u8; 32]) -> Self {
        let mut db = [0; 223];
        db[190] = 1;
        db[191..].copy_from_slice(salt);
        Self { db, trailer: 0xbc }
    }

    fn mask(&self, data_hash: &[u8]) -> [u8; 256] {
        let salt = &self.db[191..];
        let hash = Sha256::new().chain_update([0; 8]).chain_update(data_hash).chain_update(salt).finalize();
        let mut em = [0; 256];
        em[..223].copy_from_slice(&self.db);
        for (counter, chunk) in (0u32..).zip(em[..223].chunks_mut(32)) {
            let mask = Sha256::new().chain_update(hash).chain_update(counter.to_be_bytes()).finalize();
            chunk.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        em[0] &= 0x7f;
        em[223..255].copy_from_slice(&hash);
        em[255] = self.trailer;
        em
    }
}

/// A prime with its two highest bits set, by trial division and Miller and Rabin's test.
fn prime(rng: &mut StdRng, bits: u64) -> BigUint {
    let small: Vec<u32> =
        (3..2000u32).step_by(2).filter(|n| (3..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).collect();
    let mut bytes = vec![0; bits.div_ceil(8) as usize];
    loop {
        rng.fill_bytes(&mut bytes);
        let mut candidate = BigUint::from_bytes_be(&bytes) >> (bytes.len() as u64 * 8 - bits);
        for bit in [0, bits - 2, bits - 1] {
            candidate.set_bit(bit, true);
        }
        let divisible = small.iter().any(|&prime| &candidate % prime == BigUint::ZERO);
        if !divisible && [2u32, 3, 5, 7, 11, 13, 17, 19].iter().all(|&base| passes(&candidate, base)) {
            return candidate;
        }
    }
}

/// One round of Miller and Rabin's test.
fn passes(candidate: &BigUint, base: u32) -> bool {
    let one = BigUint::from(1u32);
    let minus_one = candidate - 1u32;
    let twos = minus_one.trailing_zeros().unwrap();
    let mut power = BigUint::from(base).modpow(&(&minus_one >> twos), candidate);
    if power == one || power == minus_one {
        return true;
    }
    for _ in 1..twos {
        power = power.modpow(&BigUint::from(2u32), candidate);
        if power == minus_one {
            return true;
        }
    }
    false
}
