//! IPv4 networks as settings name them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `10.1.0.0/16`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

/// A text that is no IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 network: expected an address or address/prefix without host bits, such as 10.1.0.0/16")]
pub struct NotACidr(String);

impl Ipv4Cidr {
    /// `None` when the prefix is above 32 or the address has bits beyond it.
    #[must_use]
    pub fn new(base: Ipv4Addr, prefix: u8) -> Option<Self> {
        let cidr = Self { base, prefix };
        (prefix <= 32 && u32::from(base) & !cidr.mask() == 0).then_some(cidr)
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// Whether all of `other` lies in this one.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.base)
    }

    /// Its first and its last address.
    #[must_use]
    pub fn range(self) -> (u32, u32) {
        let first = u32::from(self.base);
        (first, first | !self.mask())
    }

    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.base)
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = NotACidr;
    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let wrong = || NotACidr(text.to_owned());
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address = address.parse().map_err(|_| wrong())?;
        Self::new(address, prefix.parse().map_err(|_| wrong())?).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Ipv4Cidr {
    type Error = NotACidr;
    fn try_from(text: String) -> Result<Self, NotACidr> {
        text.parse()
    }
}

impl From<Ipv4Cidr> for String {
    fn from(cidr: Ipv4Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_parses_and_knows_what_it_contains() {
        let cidr: Ipv4Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(cidr.contains(Ipv4Addr::new(10, 1, 255, 255)) && !cidr.contains(Ipv4Addr::new(10, 2, 0, 0)));
        assert_eq!("192.0.2.7".parse::<Ipv4Cidr>().unwrap().to_string(), "192.0.2.7/32");
        assert!("0.0.0.0/0".parse::<Ipv4Cidr>().unwrap().contains(Ipv4Addr::BROADCAST));
    }

    #[test]
    fn what_could_slip_into_the_rules_as_something_else_is_refused() {
        for wrong in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/8; drop", "::/0", "10.0.0.0/-1", "a.b.c.d", "10/8"] {
            assert!(wrong.parse::<Ipv4Cidr>().is_err(), "{wrong}");
        }
    }
}
