// What all buttons that copy share: a list has one in every row, so they keep nothing themselves. That it was copied is seen
// at the button for a moment, and told once for those who listen.
import { copyText } from './clipboard';
import { toasts } from './toasts.svelte';

const SHOWN_MS = 1500;

class Copying {
	/** For those who listen. */
	said = $state('');
	#timer: ReturnType<typeof setTimeout> | undefined;
	#restore: (() => void) | undefined;

	/** Copies at the press of a button, and marks it. */
	async at(event: MouseEvent, text: string): Promise<void> {
		const button = event.currentTarget;
		event.stopPropagation();
		event.preventDefault();
		if (!(await copyText(text))) {
			toasts.bad('The browser refused to copy. Select the text and copy it by hand.');
			return;
		}
		this.#end();
		if (!(button instanceof HTMLElement)) return;
		const { ariaLabel, title } = button;
		button.dataset.copied = '';
		button.ariaLabel = button.title = this.said = 'Copied';
		this.#restore = () => {
			delete button.dataset.copied;
			button.ariaLabel = ariaLabel;
			button.title = title;
			this.said = '';
		};
		this.#timer = setTimeout(() => this.#end(), SHOWN_MS);
	}

	#end(): void {
		clearTimeout(this.#timer);
		this.#restore?.();
		this.#restore = undefined;
	}
}

export const copying = new Copying();
