//! Any sequence of batches, merges, retirements and reopenings, against a map from name to bytes.
use crate::support::{Home, NOW_S, noise, read_name, record};
use cvdmirror_store::{Error, Finding, ObjectId, PackId, Store, check_view};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    /// Name, seed and length class of each object of a batch.
    Commit(Vec<(u8, u8, u8)>),
    /// A batch with an object that is refused in its middle, then dropped.
    Drop(u8),
    /// A bit for each pack: to be merged; a bit for each name: to be dropped.
    Merge(u16, u16),
    Retire(u16),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let object = (0u8..16, 0u8..6, 0u8..5);
    let step = prop_oneof![
        4 => prop::collection::vec(object, 1..5).prop_map(Step::Commit),
        1 => any::<u8>().prop_map(Step::Drop),
        2 => (any::<u16>(), any::<u16>()).prop_map(|(packs, names)| Step::Merge(packs, names)),
        1 => any::<u16>().prop_map(Step::Retire),
        2 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

fn bytes_of(seed: u8, class: u8) -> Vec<u8> {
    let len = [0, 1, 5_000, 261_632, 400_000][usize::from(class)];
    noise(u64::from(seed), len)
}

fn number(name: &str) -> u16 {
    name[1..].parse::<u16>().unwrap() % 16
}

fn chosen(store: &Store, bits: u16) -> Vec<PackId> {
    let view = store.view();
    let packs = view.packs().iter().enumerate();
    let packs = packs.filter(|(i, _)| bits >> (i % 16) & 1 == 1);
    packs.map(|(_, pack)| pack.id().clone()).collect()
}

fn assert_same(store: &Store, model: &BTreeMap<String, Vec<u8>>) {
    let names: Vec<_> = store.view().names().map(|(n, _)| n.to_owned()).collect();
    assert!(names.iter().eq(model.keys()), "{names:?}");
    for (name, bytes) in model {
        assert_eq!(read_name(store, name), *bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_from_names_to_bytes(steps in steps()) {
        let home = Home::new();
        let mut store = home.open_clean();
        let mut model = BTreeMap::<String, Vec<u8>>::new();
        let mut now_s = NOW_S;
        for step in steps {
            now_s += 1;
            match step {
                Step::Commit(objects) => {
                    let mut batch = store.batch().unwrap();
                    let mut fresh = model.clone();
                    for (name, seed, class) in objects {
                        // Content takes the place of an empty object: such a name is of one kind for good.
                        let kind = if class == 0 { 16 } else { 0 };
                        let (name, bytes) = (format!("n{}", kind + name), bytes_of(seed, class));
                        batch.put(ObjectId::of(&bytes), bytes.len() as u64, &mut &bytes[..]).unwrap();
                        let bound = batch.bind(&name, record(&bytes));
                        let held = fresh.entry(name).or_insert_with(|| bytes.clone());
                        match bound {
                            Ok(()) => prop_assert_eq!(held, &bytes),
                            Err(Error::NameConflict { .. }) => prop_assert!(*held != bytes),
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    let empty = batch.is_empty();
                    match store.commit(batch, now_s) {
                        Ok(_) => prop_assert!(!empty),
                        Err(Error::EmptyBatch) => prop_assert!(empty),
                        Err(other) => panic!("{other:?}"),
                    }
                    model = fresh;
                }
                Step::Drop(seed) => {
                    let mut batch = store.batch().unwrap();
                    let bytes = noise(1000 + u64::from(seed), 300_000);
                    let wrong = batch.put(ObjectId::of(b"?"), 300_000, &mut &bytes[..]);
                    prop_assert!(matches!(wrong, Err(Error::WrongHash { .. })), "wrong");
                    batch.put(ObjectId::of(&bytes), 300_000, &mut &bytes[..]).unwrap();
                }
                Step::Merge(packs, dropped) => {
                    let ids = chosen(&store, packs);
                    let keep = |name: &str| dropped >> number(name) & 1 == 0;
                    let view = store.view();
                    let goes = |name: &str| ids.iter().any(|id| view.pack_of(name).unwrap().id() == id);
                    model.retain(|name, _| keep(name) || !goes(name));
                    let merged = store.merge(&ids, &keep, now_s).unwrap();
                    store.remove_retired(&merged.retired).unwrap();
                }
                Step::Retire(packs) => {
                    let ids = chosen(&store, packs);
                    let view = store.view();
                    match store.retire(&ids) {
                        Ok(()) => {
                            model.retain(|name, _| !ids.contains(view.pack_of(name).unwrap().id()));
                            store.remove_retired(&ids).unwrap();
                        }
                        Err(Error::StillNeeded { name, .. }) => prop_assert!(model.contains_key(&name)),
                        Err(other) => panic!("{other:?}"),
                    }
                }
                Step::Reopen => {
                    drop(store);
                    store = home.open_clean();
                }
            }
            assert_same(&store, &model);
        }
        drop(store);
        let store = home.open_clean();
        assert_same(&store, &model);
        check_view(&store.view(), &|_| false, &|_| {}, &mut |f| assert!(matches!(f, Finding::Unused { .. }), "{f}"));
        prop_assert!(crate::support::file_names(&home.tmp_dir()).is_empty());
    }
}
