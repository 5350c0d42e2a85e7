//! A slot: the one number from which a sandbox's address, user ids and link name follow.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The first block: its ids begin above what distributions hand out to users.
pub const FIRST_BLOCK: u8 = 0x70;
/// The last block: its ids end below the 32-bit "nobody" and overflow values.
pub const LAST_BLOCK: u8 = 0xfe;
/// Slots of one block.
pub const SLOTS_PER_BLOCK: usize = 255;
/// User ids of one slot.
pub const IDS_PER_SLOT: u32 = 1 << 16;

/// The /16 that sandbox addresses come from: `a.b` of `a.b.block.index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxNetwork([u8; 2]);

impl Default for SandboxNetwork {
    /// 198.18.0.0/16, half of the range that RFC 2544 keeps for tests of network devices.
    fn default() -> Self {
        Self([198, 18])
    }
}

impl SandboxNetwork {
    /// The network's first address.
    #[must_use]
    pub const fn base(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[0], self.0[1], 0, 0)
    }

    /// The gateway of a block: the first address of its /24.
    #[must_use]
    pub const fn gateway(self, block: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.0[0], self.0[1], block, 0)
    }
}

impl fmt::Display for SandboxNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/16", self.base())
    }
}

/// A text that is no /16 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a sandbox network: expected a /16 such as 198.18.0.0/16")]
pub struct NotANetwork(String);

impl FromStr for SandboxNetwork {
    type Err = NotANetwork;
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let address: Ipv4Addr = text.strip_suffix("/16").ok_or_else(wrong)?.parse().map_err(|_| wrong())?;
        let usable = !address.is_loopback() && !address.is_multicast() && !address.is_unspecified();
        match address.octets() {
            [a, b, 0, 0] if usable && a < 224 => Ok(Self([a, b])),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for SandboxNetwork {
    type Error = NotANetwork;
    fn try_from(text: String) -> Result<Self, NotANetwork> {
        text.parse()
    }
}

impl From<SandboxNetwork> for String {
    fn from(network: SandboxNetwork) -> Self {
        network.to_string()
    }
}

/// What must be unique on a machine, for one sandbox. Kept in the sandbox's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Slot {
    network: SandboxNetwork,
    block: u8,
    index: u8,
}

#[derive(Serialize, Deserialize)]
struct Fields {
    block: u8,
    index: u8,
    #[serde(default)]
    network: SandboxNetwork,
}

impl From<Slot> for Fields {
    fn from(slot: Slot) -> Self {
        Self { block: slot.block, index: slot.index, network: slot.network }
    }
}

impl TryFrom<Fields> for Slot {
    type Error = String;
    fn try_from(fields: Fields) -> Result<Self, String> {
        Self::new(fields.network, fields.block, fields.index)
            .ok_or_else(|| format!("there is no slot {:#04x}/{}", fields.block, fields.index))
    }
}

impl Slot {
    /// `None` outside the blocks 0x70 to 0xfe and the indexes 1 to 255.
    #[must_use]
    pub const fn new(network: SandboxNetwork, block: u8, index: u8) -> Option<Self> {
        if block < FIRST_BLOCK || block > LAST_BLOCK || index == 0 {
            return None;
        }
        Some(Self { network, block, index })
    }

    #[must_use]
    pub const fn block(self) -> u8 {
        self.block
    }

    #[must_use]
    pub const fn index(self) -> u8 {
        self.index
    }

    #[must_use]
    pub const fn network(self) -> SandboxNetwork {
        self.network
    }

    /// The first of the sandbox's [`IDS_PER_SLOT`] user and group ids on the host.
    #[must_use]
    pub const fn id_base(self) -> u32 {
        ((self.block as u32) << 24) + ((self.index as u32) << 16)
    }

    /// The sandbox's address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(self.network.0[0], self.network.0[1], self.block, self.index)
    }

    /// The address that the sandbox routes through and asks for names.
    #[must_use]
    pub const fn gateway(self) -> Ipv4Addr {
        self.network.gateway(self.block)
    }

    /// The name of the veth's end on the host.
    #[must_use]
    pub fn link_name(self) -> String {
        format!("atl{:02x}{:02x}", self.block, self.index)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}", self.block, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_two_slots_share_an_id_or_an_address(a in (FIRST_BLOCK..=LAST_BLOCK, 1u8..), b in (FIRST_BLOCK..=LAST_BLOCK, 1u8..)) {
            let network = SandboxNetwork::default();
            let (a, b) = (Slot::new(network, a.0, a.1).unwrap(), Slot::new(network, b.0, b.1).unwrap());
            prop_assume!(a != b);
            prop_assert!(a.id_base().abs_diff(b.id_base()) >= IDS_PER_SLOT);
            prop_assert_ne!(a.address(), b.address());
            prop_assert_ne!(a.link_name(), b.link_name());
            prop_assert_ne!(a.address(), b.gateway());
        }

        #[test]
        fn a_slot_survives_its_record(block in FIRST_BLOCK..=LAST_BLOCK, index in 1u8..) {
            let slot = Slot::new("10.99.0.0/16".parse().unwrap(), block, index).unwrap();
            let text = serde_json::to_string(&slot).unwrap();
            prop_assert_eq!(serde_json::from_str::<Slot>(&text).unwrap(), slot);
        }
    }

    #[test]
    fn a_record_with_an_impossible_slot_is_refused() {
        assert!(serde_json::from_str::<Slot>(r#"{"block":3,"index":1}"#).is_err());
        assert!(serde_json::from_str::<Slot>(r#"{"block":112,"index":0}"#).is_err());
        assert_eq!(
            serde_json::from_str::<Slot>(r#"{"block":112,"index":1}"#).unwrap().address().to_string(),
            "198.18.112.1"
        );
    }

    #[test]
    fn only_a_usable_16_is_a_sandbox_network() {
        for wrong in ["127.0.0.0/16", "10.0.0.0/8", "10.1.2.0/16", "239.1.0.0/16", "0.0.0.0/16", "x", "10.1.0.0"] {
            assert!(wrong.parse::<SandboxNetwork>().is_err(), "{wrong}");
        }
        assert_eq!("10.9.0.0/16".parse::<SandboxNetwork>().unwrap().to_string(), "10.9.0.0/16");
    }
}
