// Dark, light, or as the system has it. static/theme.js applies the same rule before the first paint.
export type Choice = 'system' | 'dark' | 'light';

const KEY = 'atoll.theme';

/* eslint-disable no-restricted-globals -- a preference, nothing secret */
function stored(): Choice {
	try {
		const value = localStorage.getItem(KEY);
		return value === 'dark' || value === 'light' ? value : 'system';
	} catch {
		return 'system';
	}
}

function store(choice: Choice): void {
	try {
		if (choice === 'system') localStorage.removeItem(KEY);
		else localStorage.setItem(KEY, choice);
	} catch {
		// No storage: it holds until the reload.
	}
}
/* eslint-enable no-restricted-globals */

class Theme {
	choice = $state<Choice>(stored());
	#system = matchMedia('(prefers-color-scheme: light)');
	#systemLight = $state(this.#system.matches);
	shown = $derived<'dark' | 'light'>(
		this.choice === 'system' ? (this.#systemLight ? 'light' : 'dark') : this.choice
	);

	constructor() {
		this.#system.addEventListener('change', (event) => {
			this.#systemLight = event.matches;
			this.#apply();
		});
	}

	choose(choice: Choice): void {
		this.choice = choice;
		store(choice);
		this.#apply();
	}

	#apply(): void {
		document.documentElement.dataset.theme = this.shown;
	}
}

export const theme = new Theme();
