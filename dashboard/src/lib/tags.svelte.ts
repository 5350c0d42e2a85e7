// The tags of the hosts that are shown, read once for each and kept for all places that show them.
import { SvelteMap } from 'svelte/reactivity';
import { addTags, hostTags, removeTag } from '$api/hosts';

class HostTags {
	#known = new SvelteMap<string, string[]>();
	/** What is being read: two places that show the same host ask once. */
	#reading = new Map<string, Promise<void>>();
	/** Changes of a host's tags: an answer to a question from before one of them is older than what is shown. */
	#changes = new Map<string, number>();

	/** Undefined until they were read. */
	of = (host: string): string[] | undefined => this.#known.get(host);

	read(host: string): Promise<void> {
		const under = this.#reading.get(host);
		if (under) return under;
		const at = this.#changes.get(host);
		const reading = hostTags(host)
			.then((tags) => {
				if (this.#changes.get(host) === at) this.#known.set(host, tags);
			})
			.finally(() => this.#reading.delete(host));
		this.#reading.set(host, reading);
		return reading;
	}
	async add(host: string, tag: string): Promise<void> {
		this.#changed(host, await addTags(host, [tag]));
	}
	/** It is gone at once, and comes back when the server refuses. */
	async drop(host: string, tag: string): Promise<void> {
		const before = this.of(host) ?? [];
		this.#changed(
			host,
			before.filter((one) => one !== tag)
		);
		try {
			await removeTag(host, tag);
		} catch (error) {
			this.#changed(host, before);
			throw error;
		}
	}

	#changed(host: string, tags: string[]): void {
		this.#changes.set(host, (this.#changes.get(host) ?? 0) + 1);
		this.#known.set(host, tags);
	}
}

export const tags = new HostTags();
