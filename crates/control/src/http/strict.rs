//! JSON from outside, read strictly: where an object belongs only an object is taken. serde by itself would also take an
//! array, as the object's fields in their order, at any depth.
//!
//! A whole number may be written as 1.0, which JSON holds for the same as 1: where an integer belongs it counts as one.
//!
//! [`Strict`] goes around every deserializer, visitor and seed on the way down and asks for a map where a struct is
//! wanted; serde's derived code is none the wiser.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// Why a text was refused, and where in it.
pub type Refused = serde_path_to_error::Error<serde_json::Error>;

/// Reads a whole text. `T` has to be a struct or an enum of them.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, Refused> {
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        // Types that are told apart by a tag would take one too, and ask for anything.
        Some(b'[') => Err(serde_json::Error::custom("an array where an object belongs")),
        _ => T::deserialize(Strict(serde_path_to_error::Deserializer::new(&mut json, &mut track))),
    };
    let whole = read.and_then(|value| json.end().map(|()| value));
    whole.map_err(|error| Refused::new(track.path(), error))
}

struct Strict<T>(T);

macro_rules! forward {
    ($($method:ident($($argument:ident: $kind:ty),*)),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* Strict(visitor))
        })*
    };
}

macro_rules! whole {
    ($($method:ident),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Whole(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    forward! {
        deserialize_any(), deserialize_bool(), deserialize_f32(), deserialize_f64(), deserialize_char(),
        deserialize_str(), deserialize_string(), deserialize_bytes(), deserialize_byte_buf(), deserialize_option(),
        deserialize_unit(), deserialize_unit_struct(name: &'static str),
        deserialize_newtype_struct(name: &'static str), deserialize_seq(), deserialize_tuple(len: usize),
        deserialize_tuple_struct(name: &'static str, len: usize), deserialize_map(),
        deserialize_enum(name: &'static str, variants: &'static [&'static str]), deserialize_identifier(),
        deserialize_ignored_any(),
    }

    whole! {
        deserialize_i8, deserialize_i16, deserialize_i32, deserialize_i64, deserialize_i128, deserialize_u8,
        deserialize_u16, deserialize_u32, deserialize_u64, deserialize_u128,
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Strict(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident: $kind:ty),* $(,)?) => {
        $(fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.0.$method(value)
        })*
    };
}

/// Takes whole numbers, however they are written.
struct Whole<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Whole<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    visit! { visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128 }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        /// Below it every whole number is told from its neighbours.
        const EXACT: f64 = (1_u64 << 53) as f64;
        if value.fract() == 0.0 && value.abs() < EXACT {
            return self.0.visit_i64(value as i64);
        }
        self.0.visit_f64(value)
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    visit! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128,
        visit_u8: u8, visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128, visit_f32: f32,
        visit_f64: f64, visit_char: char, visit_str: &str, visit_borrowed_str: &'de str, visit_string: String,
        visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Strict(variant))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Strict(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(Strict(seed)).map(|(value, variant)| (value, Strict(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Strict(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, A::Error> {
        self.0.newtype_variant_seed(Fields(visitor))
    }
}

/// The fields of a variant, as a map.
struct Fields<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Fields<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_map(Strict(self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Leaf {
        a: Option<u32>,
        b: String,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Choice {
        Nothing,
        Wrapped(Leaf),
        Pair(u8, Leaf),
        Named { leaf: Leaf },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Tree {
        leaf: Leaf,
        maybe: Option<Leaf>,
        list: Vec<Leaf>,
        map: BTreeMap<String, Leaf>,
        choice: Choice,
        pair: (u8, Leaf),
    }

    fn leaf() -> impl Strategy<Value = Leaf> {
        (any::<Option<u32>>(), ".{0,8}").prop_map(|(a, b)| Leaf { a, b })
    }

    fn choice() -> impl Strategy<Value = Choice> {
        prop_oneof![
            Just(Choice::Nothing),
            leaf().prop_map(Choice::Wrapped),
            (any::<u8>(), leaf()).prop_map(|(number, leaf)| Choice::Pair(number, leaf)),
            leaf().prop_map(|leaf| Choice::Named { leaf }),
        ]
    }

    prop_compose! {
        fn tree()(
            leaf in leaf(), maybe in proptest::option::of(self::leaf()), list in proptest::collection::vec(self::leaf(), 0..3),
            map in proptest::collection::btree_map("[a-z]{1,3}", self::leaf(), 0..3), choice in choice(),
            pair in (any::<u8>(), self::leaf()),
        ) -> Tree {
            Tree { leaf, maybe, list, map, choice, pair }
        }
    }

    /// Turns the `which`th object into the array of its values. Answers how many objects there are.
    fn flatten(value: &mut Value, which: usize, seen: &mut usize) {
        if let Value::Object(fields) = value {
            for inner in fields.values_mut() {
                flatten(inner, which, seen);
            }
            *seen += 1;
            if *seen == which + 1 {
                *value = Value::Array(fields.values().cloned().collect());
            }
        } else if let Value::Array(items) = value {
            for item in items {
                flatten(item, which, seen);
            }
        }
    }

    proptest! {
        #[test]
        fn what_serde_writes_is_read_as_it_was(tree in tree()) {
            prop_assert_eq!(from_slice::<Tree>(&serde_json::to_vec(&tree).unwrap()).unwrap(), tree);
        }

        #[test]
        fn no_object_at_any_depth_can_be_an_array(tree in tree(), which in 0_usize..12) {
            let (mut value, mut seen) = (serde_json::to_value(&tree).unwrap(), 0);
            flatten(&mut value, which, &mut seen);
            if seen > which {
                prop_assert!(from_slice::<Tree>(value.to_string().as_bytes()).is_err(), "{}", value);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_slice::<Tree>(&text);
        }
    }

    #[test]
    fn the_place_of_a_refused_array_is_told() {
        let wrong = json!({ "leaf": { "a": 1, "b": "" }, "list": [{ "a": 1, "b": "" }, [1, ""]] });
        let refused = from_slice::<Tree>(wrong.to_string().as_bytes()).unwrap_err();
        assert_eq!(refused.path().to_string(), "list[1]");
        assert!(from_slice::<Leaf>(b"[1, \"\"]").is_err() && from_slice::<Leaf>(b"{\"a\":1,\"b\":\"\"} x").is_err());
    }
}
