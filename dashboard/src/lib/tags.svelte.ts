// The tags of the hosts that are shown. They come with the host; what was changed here is kept until the host, as it is
// after the change, has come too.
import { SvelteMap } from 'svelte/reactivity';
import { addTags, removeTag } from '$api/hosts';
import type { Host } from '$api/types';

export type Tagged = Pick<Host, 'id' | 'name' | 'tags' | 'updated_at'>;

class HostTags {
	#changed = new SvelteMap<string, { tags: string[]; since: string }>();

	of({ id, tags, updated_at }: Tagged): string[] {
		const changed = this.#changed.get(id);
		return changed?.since === updated_at ? changed.tags : tags;
	}
	async add(host: Tagged, tag: string): Promise<void> {
		this.#keep(host, await addTags(host.id, [tag]));
	}
	/** It is gone at once, and comes back when the server refuses. */
	async drop(host: Tagged, tag: string): Promise<void> {
		const before = this.of(host);
		this.#keep(
			host,
			before.filter((one) => one !== tag)
		);
		try {
			await removeTag(host.id, tag);
		} catch (error) {
			this.#keep(host, before);
			throw error;
		}
	}
	#keep(host: Tagged, tags: string[]): void {
		this.#changed.set(host.id, { tags, since: host.updated_at });
	}
}

export const tags = new HostTags();
