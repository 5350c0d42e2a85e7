// The command palette: Ctrl-K or Cmd-K anywhere. Pages add what can be done on them while they are shown.
import { type Component, untrack } from 'svelte';

export interface Command {
	name: string;
	icon?: Component<{ size?: number; class?: string }>;
	words?: string;
	note?: string;
	run: () => void;
}

class Palette {
	open = $state(false);
	/** Of the page that is shown. */
	commands = $state.raw<Command[]>([]);
	readonly key = /mac|iphone|ipad/i.test(navigator.userAgent) ? '⌘K' : 'Ctrl K';

	/** For `$effect`: the answer takes them away. */
	offer(commands: Command[]): () => void {
		untrack(() => (this.commands = [...commands, ...this.commands]));
		return () => (this.commands = this.commands.filter((one) => !commands.includes(one)));
	}
}

export const palette = new Palette();
