//! Leaving out what a manifest does not use.

use super::Manifest;

impl Manifest {
    /// Drops the frames that nothing refers to and the packs that no frame refers to, and numbers
    /// the rest anew, in their old order. Indices that are out of range stay so: `encode` refuses.
    ///
    /// A capture writes its own, growing tables of packs and frames here; superseded frames end
    /// with this call.
    pub fn prune(&mut self) {
        let mut used = vec![false; self.frames.len()];
        let mut mark = |frame: u32| {
            if let Some(used) = used.get_mut(frame as usize) {
                *used = true;
            }
        };
        let memory = self.address_spaces.iter().map(|space| &space.runs);
        let shared = self.shared_memory.iter().map(|object| &object.runs);
        memory
            .chain(shared)
            .flat_map(|runs| runs.iter())
            .for_each(|run| mark(run.frame));
        self.image_files
            .iter()
            .flat_map(|file| &file.frames)
            .for_each(|frame| mark(*frame));
        self.files
            .iter()
            .flat_map(|files| &files.frames)
            .for_each(|frame| mark(*frame));

        let frames = Numbering::new(&used);
        let mut used_packs = vec![false; self.packs.len()];
        retain(&mut self.frames, &used);
        for frame in &self.frames {
            if let Some(used) = used_packs.get_mut(frame.pack as usize) {
                *used = true;
            }
        }
        let packs = Numbering::new(&used_packs);
        retain(&mut self.packs, &used_packs);
        self.frames
            .iter_mut()
            .for_each(|frame| frame.pack = packs.new_number(frame.pack));

        let renumber = |old: u32| frames.new_number(old);
        self.address_spaces
            .iter_mut()
            .for_each(|space| space.runs.renumber(renumber));
        self.shared_memory
            .iter_mut()
            .for_each(|object| object.runs.renumber(renumber));
        let files = self.files.iter_mut().flat_map(|files| &mut files.frames);
        let images = self
            .image_files
            .iter_mut()
            .flat_map(|file| &mut file.frames);
        files
            .chain(images)
            .for_each(|frame| *frame = renumber(*frame));
    }
}

/// New numbers of what is kept.
struct Numbering(Vec<u32>);

impl Numbering {
    fn new(kept: &[bool]) -> Self {
        let mut next = 0;
        let number = |kept: &bool| {
            let number = next;
            next += u32::from(*kept);
            number
        };
        Self(kept.iter().map(number).collect())
    }

    fn new_number(&self, old: u32) -> u32 {
        self.0.get(old as usize).copied().unwrap_or(u32::MAX)
    }
}

fn retain<T>(items: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    items.retain(|_| kept.next().copied().unwrap_or(false));
}
