//! Objects in, out and by range, at every size that sits on a threshold.
use crate::support::{Home, NOW_S, commit, file_names, noise, read_all, read_name, record};
use cvdmirror_store::{Error, ObjectId, PackWriter};
use std::io::{self, Read, Write};

/// One full row of the pack's byte stream.
const STRIPE: usize = 16 * (16 * 1024 - 32);

const INTERESTING_SIZES: &[usize] = &[
    0,
    1,
    4031,
    4032,
    4033,
    64 * 1024,
    STRIPE - 1,
    STRIPE,
    STRIPE + 1,
    256 * 1024,
    2 * STRIPE - 1,
    2 * STRIPE,
    2 * STRIPE + 1,
    1_000_000,
    3_000_001,
];

#[test]
fn every_size_alone_comes_back() {
    for &size in INTERESTING_SIZES {
        let home = Home::new();
        let bytes = noise(size as u64, size);
        commit(&home.open_clean(), &[("it", &bytes)]);
        assert_eq!(read_name(&home.open_clean(), "it"), bytes, "{size}");
    }
}

#[test]
fn all_sizes_in_one_pack_come_back_whole_and_by_range() {
    let home = Home::new();
    let store = home.open_clean();
    let files: Vec<_> =
        INTERESTING_SIZES.iter().map(|&size| (format!("f{size}"), noise(size as u64, size))).collect();
    let named: Vec<_> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    let pack = commit(&store, &named);
    assert_eq!(pack.id().as_str()[..17], *"20261122T205800Z-");
    drop(store);
    let view = home.open_clean().view();
    for (name, bytes) in &files {
        let reader = view.open(&view.lookup(name).unwrap().object).unwrap();
        let reader = reader.unwrap();
        assert_eq!(read_all(&reader), *bytes);
        for at in [0, 1, 4095, STRIPE - 1, STRIPE, STRIPE + 1, bytes.len() / 2] {
            if at < bytes.len() {
                let chunk = reader.chunk_at(at as u64).unwrap();
                assert_eq!(chunk, bytes[at..at + chunk.len()]);
            }
        }
    }
}

#[test]
fn a_pack_of_a_megabyte_is_at_most_a_twentieth_larger_than_its_data() {
    // Count and size. Names and what their records say are data too; a hundred files of 9 KB need 2 MB to get there.
    let cases: &[(usize, usize)] = &[
        (1, 1_000_000),
        (1, 1_048_576),
        (4, 262_144),
        (16, 65_536),
        (17, 70_000),
        (40, 30_000),
        (63, 16_000),
        (220, 9_500),
        (7, 150_001),
        (1, 5_000_000),
        (3, 20_000_000),
        (1000, 30_000),
    ];
    for &(count, size) in cases {
        let home = Home::new();
        let store = home.open_clean();
        let mut batch = store.batch().unwrap();
        let mut data = 0;
        for i in 0..count {
            let bytes = noise(i as u64, size);
            let name = format!("daily-{}.cdiff", 28_000 + i);
            let record = record(&bytes);
            data += size + name.len() + record.origin.len();
            batch.put(record.object, size as u64, &mut &bytes[..]).unwrap();
            batch.bind(&name, record).unwrap();
        }
        let pack = store.commit(batch, NOW_S).unwrap();
        let ratio = pack.file_len() as f64 / data as f64;
        println!("{count} x {size}: {} bytes, {ratio:.4}", pack.file_len());
        assert!(ratio <= 1.05, "{count} x {size}: {ratio}");
    }
}

#[test]
fn an_object_already_held_is_not_stored_twice() {
    let home = Home::new();
    let store = home.open_clean();
    let bytes = noise(1, 2_000_000);
    commit(&store, &[("a", &bytes)]);
    let mut batch = store.batch().unwrap();
    let id = ObjectId::of(&bytes);
    assert!(batch.holds(&id));
    struct Untouched;
    impl Read for Untouched {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("read although held")
        }
    }
    batch.put(id, bytes.len() as u64, &mut Untouched).unwrap();
    batch.bind("b", record(&bytes)).unwrap();
    let twice = noise(2, 300_000);
    for _ in 0..2 {
        batch.put(ObjectId::of(&twice), 300_000, &mut &twice[..]).unwrap();
    }
    assert_eq!(batch.len(), 300_000);
    batch.bind("c", record(&twice)).unwrap();
    let pack = store.commit(batch, NOW_S + 1).unwrap();
    assert!(pack.file_len() < 450_000, "{}", pack.file_len());
    assert_eq!(read_name(&home.open_clean(), "b"), bytes);
    assert_eq!(read_name(&home.open_clean(), "c"), twice);
}

/// A source that fails after some bytes.
struct Failing(usize);
impl Read for Failing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("line dropped"));
        }
        let n = out.len().min(self.0);
        self.0 -= n;
        out[..n].fill(7);
        Ok(n)
    }
}

#[test]
fn a_refused_object_leaves_no_trace_and_the_batch_goes_on() {
    for size in [10, STRIPE, 3 * STRIPE + 5] {
        let home = Home::new();
        let store = home.open_clean();
        let mut batch = store.batch().unwrap();
        let first = noise(1, 100_000);
        let good = noise(2, size);
        let id = ObjectId::of(&good);
        let len = size as u64;
        batch.put(ObjectId::of(&first), 100_000, &mut &first[..]).unwrap();

        let short = batch.put(id, len, &mut &good[..size - 1]).unwrap_err();
        assert!(matches!(short, Error::Short { expected, found, .. } if expected == len && found == len - 1));
        let long = batch.put(id, len, &mut &[&good[..], b"x"].concat()[..]);
        assert!(matches!(long, Err(Error::Long { expected, .. }) if expected == len));
        let endless = batch.put(id, len, &mut io::repeat(0));
        assert!(matches!(endless, Err(Error::Long { .. })));
        let mut wrong = good.clone();
        wrong[size / 2] ^= 1;
        let mismatch = batch.put(id, len, &mut &wrong[..]).unwrap_err();
        assert!(
            matches!(mismatch, Error::WrongHash { expected, found } if expected == id && found == ObjectId::of(&wrong))
        );
        let source = batch.put(id, len, &mut Failing(size / 2)).unwrap_err();
        assert!(matches!(source, Error::Source { object, .. } if object == id));
        let vast = batch.put(id, 1 << 40, &mut io::repeat(0)).unwrap_err();
        assert!(matches!(vast, Error::TooMuch { .. }));
        assert!(!batch.holds(&id));
        assert_eq!(batch.len(), 100_000);

        batch.put(id, len, &mut &good[..]).unwrap();
        let other_size = batch.put(id, len + 1, &mut io::empty()).unwrap_err();
        assert!(
            matches!(other_size, Error::WrongSize { held, claimed, .. } if held == len && claimed == len + 1)
        );
        batch.bind("first", record(&first)).unwrap();
        batch.bind("good", record(&good)).unwrap();
        let pack = store.commit(batch, NOW_S).unwrap();
        assert_eq!(pack.objects().len(), 2);
        assert_eq!(read_name(&home.open_clean(), "first"), first);
        assert_eq!(read_name(&home.open_clean(), "good"), good);
        assert!(file_names(&home.tmp_dir()).is_empty());
    }
}

#[test]
fn a_dropped_batch_leaves_nothing() {
    let home = Home::new();
    let store = home.open_clean();
    let mut batch = store.batch().unwrap();
    let bytes = noise(1, 1_000_000);
    batch.put(ObjectId::of(&bytes), 1_000_000, &mut &bytes[..]).unwrap();
    assert_eq!(file_names(&home.tmp_dir()).len(), 1);
    drop(batch);
    assert!(file_names(&home.tmp_dir()).is_empty());
    let empty = store.batch().unwrap();
    assert!(matches!(store.commit(empty, NOW_S), Err(Error::EmptyBatch)));
    assert!(file_names(&home.tmp_dir()).is_empty());
    assert!(file_names(&home.store_dir()).is_empty());
}

/// Writes an object in pieces of some length, and keeps it.
fn write(batch: &mut PackWriter, bytes: &[u8], piece: usize) -> (ObjectId, u64) {
    let mut object = batch.object().unwrap();
    for piece in bytes.chunks(piece) {
        object.write_all(piece).unwrap();
    }
    object.finish().unwrap()
}

#[test]
fn an_object_written_in_pieces_of_any_length_comes_back_before_and_after_sealing() {
    let home = Home::new();
    let store = home.open_clean();
    let mut batch = store.batch().unwrap();
    let mut files = Vec::new();
    for (&size, piece) in
        INTERESTING_SIZES.iter().zip([1000, 7, 100_000, 1 << 20, STRIPE, 4096].into_iter().cycle())
    {
        let bytes = noise(size as u64, size);
        assert_eq!(write(&mut batch, &bytes, piece), (ObjectId::of(&bytes), size as u64));
        files.push((format!("f{size}"), bytes));
    }
    for (name, bytes) in &files {
        let mut back = Vec::new();
        let mut reader = batch.open(&ObjectId::of(bytes)).unwrap();
        assert_eq!(reader.size(), bytes.len() as u64);
        reader.read_to_end(&mut back).unwrap();
        assert!(back == *bytes, "{name}");
        batch.bind(name, record(bytes)).unwrap();
    }
    assert!(batch.open(&ObjectId::of(b"never put")).is_none());
    store.commit(batch, NOW_S).unwrap();
    for (name, bytes) in &files {
        assert!(read_name(&home.open_clean(), name) == *bytes, "{name}");
    }
}

#[test]
fn what_is_held_already_or_dropped_unfinished_is_taken_back() {
    let home = Home::new();
    let store = home.open_clean();
    let (held, twice, refused) = (noise(1, 2_000_000), noise(2, 700_000), noise(3, 3_000_000));
    commit(&store, &[("held", &held)]);
    let mut batch = store.batch().unwrap();
    for bytes in [&held, &twice, &twice] {
        assert_eq!(write(&mut batch, bytes, 50_000), (ObjectId::of(bytes), bytes.len() as u64));
        batch.object().unwrap().write_all(&refused).unwrap();
    }
    assert_eq!(batch.len(), 700_000);
    assert!(!batch.holds(&ObjectId::of(&refused)));
    batch.bind("twice", record(&twice)).unwrap();
    let pack = store.commit(batch, NOW_S).unwrap();
    let file = std::fs::read(pack.path()).unwrap();
    let clean = commit(&Home::new().open_clean(), &[("twice", &twice)]).file_len();
    assert!(file.len() as u64 <= clean, "{} instead of {clean}", file.len());
    for spot in refused.chunks_exact(64).step_by(1000) {
        assert!(!file.windows(64).any(|bytes| bytes == spot), "refused bytes are in the pack");
    }
    assert_eq!(read_name(&home.open_clean(), "twice"), twice);
}

#[test]
fn a_batch_does_not_grow_by_what_it_refuses() {
    let home = Home::new();
    let mut batch = home.open_clean().batch().unwrap();
    let (good, refused) = (noise(1, 700_000), noise(2, 6_000_000));
    write(&mut batch, &good, 100_000);
    let length = || {
        let path = home.tmp_dir().join(&file_names(&home.tmp_dir())[0]);
        std::fs::metadata(path).unwrap().len()
    };
    let mut after = Vec::new();
    for _ in 0..40 {
        batch.object().unwrap().write_all(&refused).unwrap();
        after.push(length());
    }
    assert_eq!(batch.len(), 700_000);
    assert!(after[39] <= after[4].max(16 << 20), "{after:?}");
    let mut back = Vec::new();
    batch.open(&ObjectId::of(&good)).unwrap().read_to_end(&mut back).unwrap();
    assert!(back == good);
}

#[test]
fn a_batch_whose_file_is_altered_gives_no_other_bytes() {
    let home = Home::new();
    let mut batch = home.open_clean().batch().unwrap();
    let bytes = noise(1, 30_000_000);
    let (id, _) = write(&mut batch, &bytes, 1 << 20);
    let path = home.tmp_dir().join(&file_names(&home.tmp_dir())[0]);
    let mut file = std::fs::read(&path).unwrap();
    let at = file.windows(64).position(|window| *window == bytes[2_000_000..2_000_064]).unwrap();
    file[at] ^= 1;
    std::fs::write(&path, file).unwrap();
    let mut back = Vec::new();
    let error = batch.open(&id).unwrap().read_to_end(&mut back).unwrap_err();
    let error = error.downcast::<Error>().unwrap();
    assert!(matches!(&error, Error::Unusable { path: p, .. } if *p == path), "{error}");
    assert!(back == bytes[..back.len()] && back.len() <= 2_000_000);
}
