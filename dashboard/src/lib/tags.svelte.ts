// The tags of the hosts that are shown, read once for each and kept for all places that show them.
import { SvelteMap } from 'svelte/reactivity';
import { addTags, hostTags, removeTag } from '$api/hosts';

class HostTags {
	#known = new SvelteMap<string, string[]>();

	/** Undefined until they were read. */
	of = (host: string): string[] | undefined => this.#known.get(host);

	async read(host: string, signal?: AbortSignal): Promise<void> {
		this.#known.set(host, await hostTags(host, signal));
	}
	async add(host: string, tag: string): Promise<void> {
		this.#known.set(host, await addTags(host, [tag]));
	}
	/** It is gone at once, and comes back when the server refuses. */
	async drop(host: string, tag: string): Promise<void> {
		const before = this.of(host) ?? [];
		this.#known.set(
			host,
			before.filter((one) => one !== tag)
		);
		try {
			await removeTag(host, tag);
		} catch (error) {
			this.#known.set(host, before);
			throw error;
		}
	}
}

export const tags = new HostTags();
