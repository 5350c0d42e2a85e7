// xterm.js writes its styles into <style> elements that it makes. The Content-Security-Policy allows no inline styles,
// so it is given a document whose style elements put their text into constructed style sheets instead.

/** A stand-in for `document` to pass as xterm's `documentOverride`. */
export function documentWithSheets(real: Document): Document {
	return new Proxy(real, {
		get(target, property) {
			if (property === 'createElement') {
				return (name: string, options?: ElementCreationOptions) =>
					name.toLowerCase() === 'style' ? styleElement(target) : target.createElement(name, options);
			}
			const value: unknown = Reflect.get(target, property, target);
			return typeof value === 'function' ? value.bind(target) : value;
		}
	});
}

function styleElement(real: Document): HTMLStyleElement {
	const element = real.createElement('style');
	const sheet = new CSSStyleSheet();
	let text = '';
	let shown = false;
	Object.defineProperty(element, 'textContent', {
		get: () => text,
		set: (value: string | null) => {
			text = value ?? '';
			sheet.replaceSync(text);
			if (!shown) {
				real.adoptedStyleSheets = [...real.adoptedStyleSheets, sheet];
				shown = true;
			}
		}
	});
	const remove = element.remove.bind(element);
	element.remove = () => {
		real.adoptedStyleSheets = real.adoptedStyleSheets.filter((other) => other !== sheet);
		shown = false;
		remove();
	};
	return element;
}
