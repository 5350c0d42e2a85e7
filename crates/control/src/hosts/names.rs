//! Names for hosts that were given none.

const FIRST: [&str; 16] = [
    "amber", "azure", "bright", "calm", "coral", "deep", "drift", "fair", "ivory", "jade", "keen", "lunar", "pearl",
    "quiet", "sandy", "tidal",
];
const SECOND: [&str; 16] = [
    "anchor", "atlas", "bay", "beacon", "cove", "current", "gull", "harbor", "island", "kelp", "lagoon", "palm",
    "reef", "shoal", "shore", "wave",
];

/// Two words and four characters, such as `calm-reef-x3f9`.
#[must_use]
pub fn made_up_name() -> String {
    let pick = |words: &[&'static str; 16]| words[usize::from(rand::random::<u8>() % 16)];
    format!("{}-{}-{}", pick(&FIRST), pick(&SECOND), hex::encode(rand::random::<[u8; 2]>()))
}
