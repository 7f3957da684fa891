// Packages without types, or whose types lack what is used.
declare module "dicom-parser" {
  const parser: any;
  export default parser;
}
declare module "@cornerstonejs/codec-charls/decodewasmjs" {
  const create: (options: object) => Promise<any>;
  export default create;
}
declare module "@cornerstonejs/codec-openjpeg/decodewasmjs" {
  const create: (options: object) => Promise<any>;
  export default create;
}
declare module "jpeg-lossless-decoder-js" {
  export class Decoder {
    decompress(buffer: ArrayBufferLike, offset: number, length: number): ArrayBuffer;
  }
}
