"""A tiny film in every transfer syntax that medd decodes: `medd doctor` tries each decoder on it.

64 × 64 pixels in steps of 8: `expected` says what is seen, and 8, 12 or 16 bits store it without rounding. The frames
were made with OpenCV (JPEG Baseline), DCMTK (JPEG Extended and Lossless), CharLS, OpenJPEG, OpenJPH (HTJ2K) and
pylibjpeg-rle.
"""

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ComputedRadiographyImageStorage

SIDE = 64
#: How far lossy compression may be off, in [0, 1].
TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """How one transfer syntax is tried."""

    #: Bits Stored.
    bits: int
    #: What is to be installed where it cannot be decoded.
    package: str
    #: The compressed frame in base 85; "" where there is nothing to compress.
    frame: str = ""


#: Reversible, progression RPCL: good for both lossless syntaxes.
_HTJ2K = (
    r"|4;u>04YEK0000$0000$00000000000000$0000$0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm"
    r"&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00008xBvnFlfVEg0OuGJfD?ee7y`pI0KfnhZ~z5h55vQN;-EMJLbL!61B&"
    r"x7Kym&8MzjFH02ZVG0cwCj3<C4SJV68z^I)C>PW;0HTX+CL3?hgiFi*^bc`(leAP;4XU}`x4zyKGxKmZrG0GIJHmU)?%xy)rQbD7Ir<}"
    r"#PLOouq+GA?78mwB1XT;?*Dxy)rQbD7I@h(j*pGM0Inm$}SkE_0d7T;?*DxlD&R<T5T}nU{H)%UtF%m$}SkE_0d7bcjR#0qfW659`<K5"
    r"9`<K4nhE95TF^A0hh7Nm$A&3vCNmT%$Kpum$A&3vCNmT%*$NnWnShom$}SkE_0d7T;?*Dxy)rQbD5WUnaf<}GMBl`WiE4>%UtF%m$^)b"
    r"TxN$X(;>@r$TA(WOouGfA<J~g1J|$CU)QhJU)QhJT%`kADL~M*0l)wk?2G^be#n3^6Eh$JA~6#)AOa#W6Eh$JA~6#)AOa#W6Eh$JA~6#"
    r")AOa#W6Eh${#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7x"
    r"Y92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7"
    r"xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#"
    r"7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#CZ?%zy}p#7xY92#EXuxa{Mzj?PbU*~e!coSx&ej?OzdJ;!GqoOW`1"
    r"j?Ozc?Bw?yoOW^9$?iKi?BlbOh@c->r2%D%P!?FF0b+3kF*9ajCT3zLW@090VkTx{CT3zLW@090KqO{BBxXP)W<VrnKqO{BBxXP)W<Vr"
    r"nKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<V"
    r"rnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<"
    r"VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W<VrnKqO{BBxXP)W"
    r"<VrnKqO{BBxXP)W<VrnKm<fU1VlgtL_h>YKm<fU1VlgtL_h>Y{sPvut!q0391w6p!H<Ft2sj|%$H4~#91w70;Ddq=2sknDLBR(E92oc@"
    r";Ddq=404nTX(>Ral9UQ*DL|)C1i%0<-iQDN{UQJl@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL"
    r"35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@em"
    r"L35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@e"
    r"mL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@"
    r"emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhIy|8NC4PE(ZSIZjiQ<vC7Ml;t^2Q<UX7PE(ZSIZjiQ<vC7Ml;t^2Q<UX7PE(ZS"
    r"IZjiQ<vC7Ml;t^2Q<UX7PE(ZSIZjiQ<vC7Ml;t^2Q<UX7PE(ZSIZjiQ<vC7Ml;t^2Q<UX7PE(ZSIZjiQ<vC7Ml;t^2Q<UX7PE(ZSIZji"
    r"Q<v2Jl4hw^V;NZA8E)ENWf_MoJ@gW}KAs*r(9^xS$;vpX5As*r(9^xS$;vpX5As*r(9^xS$;vpX5As*r(9^xS$;zK;dLp;PoJj6ph#6v"
    r"v9Lp;PoJj6ph#6vv9Lp;PoJj6ph#6vv9Lp;PoJj6ph#D{o@hj@sGc!-C1h=+KHhj@sGc!-C1h=+KHhj@sGc!-C1h=+KHhj@sGc!-C1h!"
    r"61)5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35D)PX5AhHW@emL35Fg?p9^xS$;vpX5As*r(9^xS$;vpX5As*r(9^xS$;vpX5A"
    r"s*r(9^xS$;vpX5AwI-IJj6ph#6vv9Lp;PoJj6ph#6vv9Lp;PoJj6ph#6vv9Lp;PoJj6ph#6vv9Lwtybc!-C1h=+KHhj@sGc!-C1h=+KH"
    r"hj@sGc!-C1h=+KHhj@sGc!-C1h=+KH{=f(L000002RI)6oZx%*bAj*K&Ii9|I3E3+;CuFSf$!PQ2eQBb000hfJ^MMp_w45b-?N+#e$H?"
    r"``#He(?B@gDvz!lQfB*mh9N>HQbAj*K&Ii9|I3E3+;CuFSf$!PQ2ft@H9?Jj#0023__w45b-?N+#e$H?``#He(?B@gDvz!lp&Tu`J000"
    r"00bAj*K&Ii9|I3E3+;CuFSf$!PQ2ft@H9{rr)dn^C|008F$-?N+#e$H?``#He(?B@gDvz!lp&Tu{ZIl%T<00001&Ii9|I3E3+;CuFSf$"
    r"!PQ2ft@H9{rr)d-ijI?6VL5*#"
)

#: By transfer syntax UID.
SAMPLES = {
    "1.2.840.10008.1.2": Sample(12, "pydicom"),
    "1.2.840.10008.1.2.1": Sample(12, "pydicom"),
    "1.2.840.10008.1.2.2": Sample(12, "pydicom"),
    "1.2.840.10008.1.2.1.99": Sample(12, "pydicom"),
    "1.2.840.10008.1.2.4.50": Sample(
        8,
        "opencv-python-headless",
        r"|JeWF01!$>Nk#wx0RR9200961|JwjV00RO70|EjA0|NsD0|NvF2n7WM1O*BQ2L=cX3JeSj3JVJj4iXRz4iOFu3lJ6%5fc;@6%`B*7Z?^"
        r"47!ni}6#u{g3kU!}06+l&5di<h03QGV0R;g80RaI400000000000RjUA1qKHQ2?`7U!~nGr00IF60|EpC1qB2I0004f0RjU61Q7)iAu&"
        r"M)6H#FYB5@QlfsvsIBSNvk6;jdgBr{@if(Z&17Z@2DB_<~*DJnEIHa9pqIzvQ7Mn_0VN>fx-R##YAT4Q8oW@l(=YIAgTc6WGrdV_?8hK"
        r"GoWijtF*m6n&7nVO=bq@|{(sHv*5v$VCgx45~w!o$SH#>dFX%F@%+)z;V8+1laa<K*S$=jiF`@$&QZ_4fDp`TGCb00;pA002J#{Hm_Dy"
        r"4vfjt**AZ>g#LszPj4$tF5lKy6Wp|t*_4d>#MD<wz}%;Ypt%jzdP%#uC}`B>uas9y1Lr@@2<AG>g#K*uDZI~>udAAy6Wp|t**Md+Usks"
        r"ug?1GYpt%jy4ve&uCBJfJL|2ky1LryYp$-gy4wHQ",
    ),
    "1.2.840.10008.1.2.4.51": Sample(
        12,
        "pylibjpeg-libjpeg",
        r"|JeWF01!$>Nk#wx0RR9200961|JwjV00RO70|EjA0|NsD0|NvF2n7WM1O*BQ2L=cX3JeSj3JVJj4iXRz4iOFu3lJ6%5fc;@6%`B*7Z?^"
        r"47!ni}6#u~h3k(2206+l&5di<h02KfM0RR9100000000000000A4gbUd6c7Ob00000000000000000030+5iXv0RR9$0F_i*1+ZHMuv-"
        r"PNTM6Ceuv-PNTLrLN1+bmoTLrLN1+ZHMuv-b;<*-`?uv-PNTLrM4-dhE*TLrLN1+ZHQ-Q}=b1+ZHMuv-PNo!(mouv-PNTLrLN3EkzeTL"
        r"rLN1+ZHMu>b$r",
    ),
    "1.2.840.10008.1.2.4.57": Sample(
        12,
        "pylibjpeg-libjpeg",
        r"|JeWF01!$>Nk#wx0RR9200961|HA+a5CA{`Kmh>}0RO}Q7XSeP0RaF20000000000000082@wC<00;pA00sa6;2I(WL_lbW4G{sNAT&e"
        r"<h=2e900000000000000000000000000000000000000000000000000000000000000000007Y%CW)eGnkI>&XqqO8qG*~XiK1wlCW)"
        r"eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK0LN00000000000000000000000000000000"
        r"000000000000000000000000000000000001;biK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&X"
        r"qqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*r+00000000000000000000000000000000000000000000000000000000000000000000dU"
        r"qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqGd0000"
        r"00000000000000000000000000000000000000000000000000000000000000009-XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1"
        r"wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI<=000000000000000000000000000000000000000000"
        r"000000000000000000000000002d8YYRNXqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGn"
        r"kI>&XqqO8qG*~XiK1wlCW)dz000000000000000000000000000000000000000000000000000000000000000000000qMv0<mnkI>&"
        r"XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wb00000000000000"
        r"0000000000000000000000000000000000000000000000000000000D5u#|CCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*"
        r"~XiK1wlCW)eGnkI>&XqqO8qG*~XiK1wlCW)eGnkI>&XqqO8qG*~V0000000000000000000000000000000000000000000000000000"
        r"000000000000000003|Je",
    ),
    "1.2.840.10008.1.2.4.70": Sample(
        12,
        "pylibjpeg-libjpeg",
        r"|JeWF01!$>Nk#wx0RR9200961|HA+a5CA{`Kmh>}0RO}Q761VO0RR910000000000000095dYc$2mt{A0RRBND2NIo0*HX3ASj3mA_9n"
        r"j0HPo$hzcSCh=8IXD2NIo00M}Bq97=U3L*lCfTAEMhyV&A0*HX3ASj3mA_9njq96b$hzcSCh=8IXD2NIo0*HVBq97=U3L*lCfTAEMhzc"
        r"SA0*HX3ASj3mA_9njq97=U016@kh=8IXD2NIo0*HX3ASj3mA_9njq97=U3L*lCfTAD(D2NIo0*HX3ASj3mA_9nj0HPo$hzcSCh=8IXD2"
        r"NIo00M}Bq97=U3L*lCfTAEMhyV&A0*HX3ASj3mA_9njq96b$hzcSCh=8IXD2NIo0*HVBq97=U3L*lCfTAEMhzcSA0*HX3ASj3mA_9njq"
        r"97=U3L*lCfTAEMhzcSCh=8IXD2M<GA_9njq97=U3L*lCfTAD(D2NIo0*HX3ASj3mA_9nj0HPo$hzcSCh=8IXD2NIo00M}Bq97=U3L*lC"
        r"fTAEMhyV&A0*HX3ASj3mA_9njq96b$hzcSCh=8IXD2NIo0*HVBq97=U3L*lCfTAEMhzcSCh=8IXD2NIo0*HX3ASj3mA^-x2fTAEMhzcS"
        r"Ch=8IXD2M<GA_9njq97=U3L*lCfTAD(D2NIo0*HX3ASj3mA_9nj0HPo$hzcSCh=8IXD2NIo00M}Bq97=U3L*lCfTAEMhyV&A0*HX3ASj"
        r"3mA_9njq96b$hzcSCh=8IXD2NIo0*HX3ASj3mA_9njq97=U3L*lCfB>Q(D2NIo0*HX3ASj3mA^-x2fTAEMhzcSCh=8IXD2M<GA_9njq9"
        r"7=U3L*lCfTAD(D2NIo0*HX3ASj3mA_9nj0HPo$hzcSCh=8IXD2NIo00M}Bq97=U3L*lCfTAEMhyV&A0*HX3ASj3mA_9njq97=U3L*lCf"
        r"TAEMhzcSCh=8IX04RtGA_9njq97=U3L*lCfB>Q(D2NIo0*HX3ASj3mA^-x2fTAEMhzcSCh=8IXD2M<GA_9njq97=U3L*lCfTAD(D2NIo"
        r"0*HX3ASj3mA_9nj0HPo$hzcSCh=8IXD2NIo00M}Bq97=U3L*lCfTAEMhzcSCh=8IXD2NIo0*HX3ASj3c3L*lCfTAEMhzcSCh=8IX04Rt"
        r"GA_9njq97=U3L*lCfB>Q(D2NIo0*HX3ASj3mA^-x2fTAEMhzcSCh=8IXD2M<GA_9njq97=U3L*lCfTAD(D2NIo0*HX3ASj3mA_9nj0HP"
        r"o$hzcSCh=8IXD2NIo0*HX3ASj3mA_9njq97=U3L*dkh=8IXD2NIo0*HX3ASj3c3L*lCfTAEMhzcSCh=8IX04RtGA_9njq97=U3L*lCfB"
        r">Q(D2NIo0*HX3ASj3mA^-x2fTAEMhzcSCh=8IXD2M<GA_9njq97=U3L*lCfTAD(D2NIo0*HX3ASj3mA_9nj|Je",
    ),
    "1.2.840.10008.1.2.4.80": Sample(
        12,
        "pyjpegls",
        r"|JeWc01FHNKmb4i0TBTI+5iXv0RR910Q>;M0tg`pKmY&$07!xa5JC`u00000kpw7FMHEp00DlrBNhFd$01snEjT&jD008bpi4r7HKmZ3"
        r"arAn15RIZ?A3xeTrxLiC%#l^+N#m7jToSdAToZ%i$PEJlvaE~V^PMtf1^y$;5PT@T|bm`NuBru^x6j49`#S~FN1P~GkAqYYc5$Hk?gdj"
        r"&D2tp8n8iXMTL<q!0L_`R*L_|bGXHK0ubm`nDr%s(ZcMIp9dFSDL^Upl|FP?elpM~?!JoE6rdFP&d2@FI;L=i}ch=?Ll5fKnXB$7xW(n"
        r"%x`$t02pRFX*qB1t5Xx#ymF=bwf1&ph++zIo@KeizR?^UuQh=bm}^Up({AKMUucdFQ~8)l?8_s)Q1%p#rL?Kq{&~)$#oPKVRiD&ph+bK"
        r"MUucdFSDL^Upl|FP?elpM~?!JoE6rdFP&f7tcKN&w(NSKOe{2`1*ezFXQ3-d%uro`MmSbJoC@O`RAT__+LEp&p!+2o_XiteDlvd{4bt)"
        r"=bwf1&ph+sNPmx4@#y|M-_IxW#r*JpJKyND&ph+bKMUucdFSDL^Upl|FP?elpM~?!JoE6rdFP&f7tcKN&w(NScR!u4=VSTS{&hc{FXu!"
        r"3PI>2^dFSDL^Upl|FP?elpM~?!JoE6rdFP&f7tcKN&%*iVo_X*jKhAganf&E{IUmk9^NIZ7f3VLy^Upl|FP?elpM~?!JoE6rdFP&f7tc"
        r"KN&%*iVo_Y9RJoC>!|Je",
    ),
    "1.2.840.10008.1.2.4.81": Sample(
        12,
        "pyjpegls",
        r"|JeWc01FHNKmb4i0TBTI+5iXv0RRF30Q>{6h>}160001uP>7O100000jge6i6aWo~sEB|7TvSv=00QEoswe;#QB_qPLosm(Ot}#d<dUg"
        r"8S6wNts(PbdH@%(i{y&C!_~-ZW`e&bxe}5mQdHCn|@%m?<j(>k24Yd&wPy>+>B!=lEk{clzB#n|uQK}{)pdN%Gsj?!fhPS=%&i@v9=bw"
        r"&$Z1c}Q9RAtoo_;y~v(G&IbNgqWdHCn{&ph+-&wu~`00K2ys%omKs;Z`{`J?%&C)z)>e}QcC&ph++zIo@KeizR?^UuQh=bm}^Up({AKM"
        r"UucdFSDL^Upl^Hvcq#X8z6nqx(1ZZ|vXW&ph+bJp3=7dFP*n^Upl<@V<HHo_-h4JoC@O`RAT__+LEp&pr)***~*?Wd6zhllvF;FY;%ed"
        r"FP&f7tcKN&%*iVo_Y9RJoC>#3+JAB=iz+w&piAuo_Xh=2EXiI*uSuUVE)1VgZl^haEOvZ6VE*J&%yK0JoC@O`RAT__+LEp&p!+2o_Xit"
        r"eDlvd{4bt)=br|@>>t;^uzz0uz5RRo=lS!`JoC>#3+JAB=iz+w&piAuo_Xh=h4arm^YFfT=bnBS&ph+bgKzcE>z~&@t$$knwf$@TIp>~"
        r"v=bwf1&ph++zIo@KeizR?^UuQh=bm}^Up({AKMUucdFR0Y*#",
    ),
    "1.2.840.10008.1.2.4.90": Sample(
        12,
        "pylibjpeg-openjpeg",
        r"|4;u>04V?f0000$0000$00000000000000$0000$0000000000009dD0sm3}3;+NC0RROA1ONg5TmTb5U}$J?XlQU~XmDs~aA;_7|6~9"
        r"q00BdCWnpw>WFTUBAWv{*Zc0!^M<8}(a&u{KZXhx)H7+v$kN^q*00001LjVE)li%PR2ha=E>`U~+_6CRS3=IM2>Xly$J$4Gp&%ybHLHU"
        r"IMA{q!(x}BzNGhYLL-8;a(_^>e_!2Ahdeg$9=YN6u7XR^Tv&AjDfzO5by$Q$!>>?7!Fa{^KS1p>R^Q-p-S5{@dX{Kpe3@7AyWHfCm5{{"
        r"?1-ukq9j%v?wma)xUB%QG{aM*n}J;zD1*{0ks{1%MYRjG$Q9FspF&^_v_YLsq!q&;S4cVIeQ?GXMYpVIeR1B&YxY05Fi3|9=c3W%ww|*"
        r"aT60qB#CJNBHFwU;qFBVIeQ(u)qKSVIeR0FMt3505Fi3|9`;z2w;8$03mD@N$RhyOuzqo{Zv$<000000K!6F&0IhL0K!6F|9=400uHym"
        r"@zuV5TmATjfB*mh00t5g{u{;s00t5g|9}74",
    ),
    "1.2.840.10008.1.2.4.91": Sample(
        12,
        "pylibjpeg-openjpeg",
        r"|4;u>04V?f0000$0000$00000000000000$0000$0000000000009dD0sm3}3;+NC0RROA1ONd4TmU0Nmmrq#mhhIqj{uJVj^Kw-hfs%"
        r"Ta0PG$a7TC3chh%b|6~9q00BdCWnpw>WFTUBAWv{*Zc0!^M<8}(a&u{KZXhx)H7+v$kN^q*00001(*ObglgIub6bFJ-T&AdP<zNZH|3L"
        r"yE{=onZ0>~!Sd@h>{J?Cpm<7a%p{X^h>q5vWq1rly})*=q6xI?hdk^_I(Ppl`p>AZ)=*d`?=xWGQb_y^cv5o8+oV7wV41b_?%;NTApMj"
        r"sRe2I81nKE!iP@HFN3h^Q_+!6-(IX5!aV&@vhljQ+uqb}&s^252?jJFrZU6F2{V{WKi`?Ua2j?~jUr6gs(d4Ay35W@aKN$xxxd`dYyHS"
        r"b!HPjG$Q9FspAxxf~xu!fGGG3%~?KBgeJ69izYl2?>5z;s5{!5)KRr02#s{H~&e(2LE{sB4zj}%h&`-+WZG+#^99pGDwLM6@b?ht_)}q"
        r"Eqtl@QA0WiqVP;gPIH{;8Hs&zz<ufvA9{EpY!ylBudPhK|9kyYF`A`$n7AdKx?ZpV0009C34f6pR|jz*enW53Gr$0dL|&|0|8Z(C0000"
        r"001J3HVq**f|9}5*#V`N>001zMm;ZkN)dCK;z46t)ep~(W^3UElM2{~DdwatG0001CAus7WY+*|~fo!p9h$T~*{Gb}2|6`sY000amBN2"
        r"`$oFl*{H~)Rs0000001PB0|9}74",
    ),
    "1.2.840.10008.1.2.4.201": Sample(16, "pylibjpeg-openjpeg", _HTJ2K),
    "1.2.840.10008.1.2.4.202": Sample(16, "pylibjpeg-openjpeg", _HTJ2K),
    "1.2.840.10008.1.2.4.203": Sample(
        16,
        "pylibjpeg-openjpeg",
        r"|4;u>04YEK0000$0000$00000000000000$0000$0000000000009pH0sl|{2mk^A001NZQUDA90ssL31q1{@0RLP7BO-rve?@;qe;0R"
        r"LcU*TpZ>n#qZ^BqLST$I9P#RDgU%&rk02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*000089smLVlfVG0V>_j%bcXN(12h1@0IGliRF}"
        r"AfD_rpbg0ujaaK$CK;sJ)V0KfriKmlq1cIKBa5Fj`X!+iMy0m3I}Lb0|0W~XU>f$#;w7YJV<{0Kk;A2GK8zyj~!0eT46Yo2@Wz4zXy$#"
        r"Jf0o_p`T@B4n59Ot^`x%b}tzVD~Wajt8gd+)vP`+k}n=L4*I!}X6?ezEHhNMkY?kpb6y&DVU**L=;_e9gV@d+)vX-h1!8_rCAF_uhN&z"
        r"4tyjr_SU|&g4wa<V?;0D_*+RU)QhJU)QhJUz1wo(6j--3-6c#ee{M=6cBVA5Of?6bQ}<L91wII5Of^CW*9{QLB|0>#{ogd0YS$BLB|0>"
        r"$AKWjU>HRKLB|0>#{ogd0YS$BLB|0>$AKWjU>HRKLB|0>#{ogd0YS$BLB|0>$AKWjU>HRKLB|0>#{ogd0YS$BLB|0>$AKWjU>HRKLB|0"
        r">#{ogd0YS$BLB|0>$AKWjU>HRKLB|0>#{ogd0YS$BLB|0>$AKWjU>HRKLB|0>#{ogd0YS$BLB|0>$AKWj@Bk2YaoNXb69;D<oOW?Ac5&"
        r"IqXA=i!9h`P?Fm`d-$7d4<XC0h&aWHmq*~e!S#VyFP+>0&9vbqCCVJM8kD2&1=jKV04!YGWwD2&1=jKV0O13I7sI-mnOpaVLf13I7sI-"
        r"mnOpaVLf13I7sI-mnOpaVLf13I7sI-mnOpaVLf13I7sI-mnOpaVLf13I7sI-mnOpaVLf13I7sI-mnOpaVLf13I7sI-mnOpaVLf13I7sI"
        r"-mnOpaVLf13I7sI-mnOpaVLf13I7sI-mnOpaVLf13I7sI-mnOpaVLP0U3}18IS=PkO3Kx0U3}18IS=PkO3L~000535O6`k2L?U}I3VDI"
        r"gC7JO5O6`kkAe;eI3VE1!3P8!5O8DQgMtnSI5GJIE<p>BLgW^?1Hc#bzW`s>h=hzWA>){kaZJcKCS)8FGL8uu$ApX#0wH6BK*$&&5Hdy"
        r"xgp3gaA!CF<$QU6IGDZl5j1dAMV}wA+7$FccMhJwA5dtA&gh0p`ArLY~2!xCg0wH6BK*$&&5Hdyxgp3gaA!CF<$QU6IGDZl5j1dAMV}w"
        r"A+7$FccMhJwA5dtA&gh0p`ArLY~2!xCg0wH6BK*$&&5Hdyxgp3gaA!CF<$QU6IGDZl5j1dAMV}wA+7$FccMhJwA5dtA&gh0p`ArLY~2!"
        r"xCg0wH6BK*$&&5Hdyxgp3gaA!CF<$QU6IGDZl5j1dAMV}wA+7$FccMhJwA5dtA&gh0p`ArLY~2!xCg0wH6BK*$&&5Hdyxgp3gaA!CF<$"
        r"QU6IGDZl5j1dAMV}wA+7$FccMhJwA5dtA&gh0p`ArLY~2!xCg0wH6BK*$&&5Hdyxgp3gaA!CF<$QU6IGDZl5j1dAMV}wA+7$FccMhJwA"
        r"5dtA&gh0p`ArLY~2!xCg0wH6BK*$&&5Hdyxgp3gaA!CF<$QU6IGDZl5j1j`Wz&c2BLy{bj<cB0VCrJ)Sazm0FkmQFX=^@DuNOD7x9FXL"
        r"lBsn3;4oGrCk{pwyha@>6$qq<zLy~lm<cB0VA;}I%a!!&QkmQFXIU&goNzy}-9FXLPBsn3;I!JOuk{poaha@>CNe)PILy{bj<cB2bA;}"
        r"I%azm0FkmQ{tIU&goNOD7x9FwGnBsn3;4oGrCl5~*dha@>6$qq<zPLdpu<cB0VA;}I%z5z|}3U7c@d;*)`6yE@*_yVyEWF$s1$Vdhm$s"
        r"i*cWF&)(WRQ^zGLk_?GRQ~<8Ob0c8Du1bjAW3J3^IlgLI@#*5JCtcgb+dqA%qY@2qBP>7|9?b8Du1bjAW3J3^I~IMl#4q1{uj9BN=2Qg"
        r"N$U5kqk1DK}Isj7(xgkgb+dqA%qY@2qA<JLI@#*Kt^IDgN$U5kqk1DK}IsjNCp|nAR`%MB!i4(kdX{Bl0il?$Vdhm$sl70A%qY@2qA<J"
        r"LI@#*5JCtcgb)H5iIEI4l0il?$Vdhm$si*cWF&)(WRQ^zGLk_?GRQ~<8Ob0c8Du1bj3I;&LI@#*5JCtcgb+dqA%qY@2xKHiGRQ~<8Ob0"
        r"c8Du1bjAW3J3^I~IMl#4q1{uj9BN=2QgN$U5kqk115JCtcgb+dqA%qY@2qA<JLI@#{kr>G!BN=2QgN$U5kqk1DK}IsjNCp|nAR`%MB!i"
        r"4(kdX{Bl0il?$QVKhA%qY@2qA<JLI@#*5JCtcgg{1OB!i4(kdX{Bl0il?$Vdhm$si*cWF&)(WRQ^zGLk_?GRQ~<8Ob1H2qA<JLI@#*5J"
        r"Ctcgb+dqA%qaZ{=f(L7PYNwTGq9#Ygxbm6zPBfQ>Fj`PM81%I$!`4>3{%JrT_s>m;ePgZEITAwXJJf*0X>BDboM|r%V6>oiG3jbie>9("
        r"*OXcOaKC%FaQc}+SawLYg*Q|t!DrLQ>Fj`PM81%I$!`4>3{%JrT_s>m;ePjU;q@|wXJJf*0rr`TFw9fr%V6>oiG3jbie>9(*OXcOaKC%"
        r"FaQd4zyK+`Yg*Q|t!rA=wVVI}PM81%I$!`4>3{%JrT_s>m;ePjU;q^9fB;i=*0rr`TGq9#Yd8P`oiG3jbie>9(*OXcOaKC%FaQd4zyK-"
        r"J005@#t!rA=wXJJf)^Gp?I$!`4>3{%JrT_s>m;ePjU;q^9fB;jb00B+i5&zi",
    ),
    "1.2.840.10008.1.2.5": Sample(
        8,
        "pylibjpeg-rle",
        r"0RR91KmY&$0000000000000000000000000000000000000000000000000000000000000000000000`2hJ5`6Br<`9%3u`DXcd`2hJ"
        r"5`6Br<`9%3u`DXcd`2hJ5`6Br<`9%3u`DXcd`2hJ5`6Br<`9%3u`DXcd`2hJ5`6Br<`9%3u`DXcd`2hJ5`6Br<`9%3u`DXcd`2hJ5`6B"
        r"r<`9%3u`DXcd`2hJ5`6Br<`9%3u`DXcd`4Rad`7`-M`BnL5`FHt<`4Rad`7`-M`BnL5`FHt<`4Rad`7`-M`BnL5`FHt<`4Rad`7`-M`B"
        r"nL5`FHt<`4Rad`7`-M`BnL5`FHt<`4Rad`7`-M`BnL5`FHt<`4Rad`7`-M`BnL5`FHt<`4Rad`7`-M`BnL5`FHt<`6Br<`9%3u`DXcd`"
        r"H1<M`6Br<`9%3u`DXcd`H1<M`6Br<`9%3u`DXcd`H1<M`6Br<`9%3u`DXcd`H1<M`6Br<`9%3u`DXcd`H1<M`6Br<`9%3u`DXcd`H1<M"
        r"`6Br<`9%3u`DXcd`H1<M`6Br<`9%3u`DXcd`H1<M`7`-M`BnL5`FHt<`I-5u`7`-M`BnL5`FHt<`I-5u`7`-M`BnL5`FHt<`I-5u`7`-"
        r"M`BnL5`FHt<`I-5u`7`-M`BnL5`FHt<`I-5u`7`-M`BnL5`FHt<`I-5u`7`-M`BnL5`FHt<`I-5u`7`-M`BnL5`FHt<`I-5u`9%3u`DX"
        r"cd`H1<M`KtN5`9%3u`DXcd`H1<M`KtN5`9%3u`DXcd`H1<M`KtN5`9%3u`DXcd`H1<M`KtN5`9%3u`DXcd`H1<M`KtN5`9%3u`DXcd`H"
        r"1<M`KtN5`9%3u`DXcd`H1<M`KtN5`9%3u`DXcd`H1<M`KtN5`BnL5`FHt<`I-5u`Mded`BnL5`FHt<`I-5u`Mded`BnL5`FHt<`I-5u`"
        r"Mded`BnL5`FHt<`I-5u`Mded`BnL5`FHt<`I-5u`Mded`BnL5`FHt<`I-5u`Mded`BnL5`FHt<`I-5u`Mded`BnL5`FHt<`I-5u`Mded"
        r"`DXcd`H1<M`KtN5`ONv<`DXcd`H1<M`KtN5`ONv<`DXcd`H1<M`KtN5`ONv<`DXcd`H1<M`KtN5`ONv<`DXcd`H1<M`KtN5`ONv<`DXc"
        r"d`H1<M`KtN5`ONv<`DXcd`H1<M`KtN5`ONv<`DXcd`H1<M`KtN5`ONv<`FHt<`I-5u`Mded`Q7>M`FHt<`I-5u`Mded`Q7>M`FHt<`I-"
        r"5u`Mded`Q7>M`FHt<`I-5u`Mded`Q7>M`FHt<`I-5u`Mded`Q7>M`FHt<`I-5u`Mded`Q7>M`FHt<`I-5u`Mded`Q7>M`FHt<`I-5u`M"
        r"ded`Q7>M",
    ),
}


def expected() -> NDArray[np.float32]:
    """The film as it is seen: (64, 64) float32 in [0, 1]."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.asarray((rows // 8 + columns // 8) / 15, np.float32)


def encode(transfer_syntax_uid: str) -> bytes:
    """The film as a Part 10 file in one of the `SAMPLES`' syntaxes."""
    sample, syntax = SAMPLES[transfer_syntax_uid], UID(transfer_syntax_uid)
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "2.25.1"
    dataset.Modality, dataset.PatientName, dataset.PatientID = "CR", "", ""
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = 8 if sample.bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = sample.bits, sample.bits - 1
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (sample.bits - 1), 2**sample.bits
    if sample.frame:
        dataset.PixelData = encapsulate([base64.b85decode(sample.frame)])
        dataset["PixelData"].VR = "OB"
    else:
        white = 2**sample.bits - 1
        dataset.PixelData = np.rint(expected() * white).astype("<u2" if syntax.is_little_endian else ">u2").tobytes()
        dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
