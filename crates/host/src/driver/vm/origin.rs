//! What a machine begins with: how long it may take then, and what is left to be tried when it does not work.

use std::time::Duration;

use super::patience::Patience;
use super::stored::Stored;
use super::waiting::Shape;

/// From QEMU's first instruction to the guest's word that it is ready: two seconds in software on an idle machine,
/// many more on one whose processors are all busy.
const PATIENCE: Duration = Duration::from_secs(45);
/// A copy of a machine answers within a second if it gets a processor. One that does not, never will; then there must be
/// time left to boot.
const COPYS_PATIENCE: Duration = Duration::from_secs(15);

/// What a machine begins with.
pub(super) enum Origin {
    Boot,
    /// With what it was when it was paused.
    Own(Stored),
    /// With what another was when the layer was made that this one stands on.
    Other(Stored),
    /// With what another was that waited to be told what it stands on, or who it is.
    Waiting(Stored, Shape),
}

impl Origin {
    pub const fn stored(&self) -> Option<&Stored> {
        match self {
            Self::Boot => None,
            Self::Own(stored) | Self::Other(stored) | Self::Waiting(stored, _) => Some(stored),
        }
    }

    /// Whether its guest knows another name, address or clock than it has now.
    pub const fn is_elsewhere(&self) -> bool {
        match self {
            Self::Other(_) => true,
            Self::Own(stored) => stored.moved,
            Self::Boot | Self::Waiting(..) => false,
        }
    }

    /// How long its guest may take to say that it is ready.
    pub const fn patience(&self) -> Patience {
        match self {
            Self::Boot | Self::Own(_) => Patience { silent: PATIENCE, most: PATIENCE },
            Self::Other(_) | Self::Waiting(..) => Patience { silent: COPYS_PATIENCE, most: PATIENCE },
        }
    }

    /// What is left to be tried when this did not work.
    pub fn instead(&self) -> Instead {
        match self {
            Self::Boot | Self::Own(_) => Instead::Nothing,
            Self::Other(_) => Instead::Boot,
            Self::Waiting(_, shape) => Instead::BootWithout(shape.clone()),
        }
    }
}

pub(super) enum Instead {
    Nothing,
    Boot,
    /// And no other is to try it with the machine that waits in this shape.
    BootWithout(Shape),
}
