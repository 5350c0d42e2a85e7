//! Laying one overlay layer over another, as the kernel would show both together.
//!
//! Both trees are upper directories of overlays: whiteouts are character devices 0:0, opaque directories bear a mark.
//! The result is such a layer again, for it still lies over something: what hides stays. A directory that takes the
//! place of what was no directory becomes opaque, so that nothing from further below shines through.

use crate::tree::{Kind, OPAQUE, Tree};
use crate::{ImageError, Inode};

impl Tree {
    /// Lays `upper` over this.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn overlay(&mut self, upper: Self) -> Result<(), ImageError> {
        let offset = self.inodes.len();
        // Its names; what else it has is counted again with each inode.
        self.remember(upper.memory)?;
        for mut inode in upper.inodes {
            if let Kind::Directory(entries) = &mut inode.kind {
                entries.values_mut().for_each(|index| *index += offset);
            }
            self.add(inode)?;
        }
        // Pairs of directories still to be merged: an explicit stack, since depth is a stranger's choice.
        let mut work = vec![(0, offset)];
        while let Some((lower, upper)) = work.pop() {
            self.merge_directory(lower, upper, &mut work);
        }
        Ok(())
    }

    /// `upper` into `lower`, both directories. Children that are directories on both sides are left to `work`.
    fn merge_directory(&mut self, lower: usize, upper: usize, work: &mut Vec<(usize, usize)>) {
        let Inode { kind, meta, .. } = self.inodes[upper].clone();
        let Kind::Directory(children) = kind else { return };
        let opaque = meta.xattrs.get(OPAQUE).is_some_and(|value| value == b"y");
        let was_opaque = self.inodes[lower].is_opaque();
        self.inodes[lower].meta = meta;
        if opaque {
            if let Some(entries) = self.entries_mut(lower) {
                *entries = children;
            }
            return;
        }
        if was_opaque {
            self.inodes[lower].meta.xattrs.insert(OPAQUE.to_vec(), b"y".to_vec());
        }
        for (name, child) in children {
            let below = self.entries(lower).and_then(|entries| entries.get(&name)).copied();
            match below {
                Some(below) if self.inodes[below].is_directory() && self.inodes[child].is_directory() => {
                    work.push((below, child));
                    continue;
                }
                Some(_) if self.inodes[child].is_directory() => {
                    self.inodes[child].meta.xattrs.insert(OPAQUE.to_vec(), b"y".to_vec());
                }
                _ => {}
            }
            if let Some(entries) = self.entries_mut(lower) {
                entries.insert(name, child);
            }
        }
    }
}
